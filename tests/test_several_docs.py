"""docs/several.md: each block of it runs; one Prometheus has all its configurations."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import documents
import live
import pytest
import queries
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "several.md").read_text()
BLOCKS = documents.blocks(TEXT)
# What the page tells to add to the commands.
FILE = " --env WSGI_PROM_SD=file:$PWD/targets/{}.json"


class Host:
    """A host with the page's files, and a terminal for each of the two servers, nginx and Prometheus."""

    def __init__(self, folder: Path, network: int) -> None:
        self.folder = folder
        self._network = network
        self._terminals: dict[str, documents.Reader] = {}

    def type(self, command: str, terminal: str = "") -> str:
        if terminal not in self._terminals:
            self._terminals[terminal] = documents.Reader(self.folder, live.BIN, self._network)
        return self._terminals[terminal].type(command)

    def stop(self) -> None:
        for terminal in self._terminals.values():
            terminal.stop()

    def run(self, block: documents.Block, more: str = "") -> None:
        """Type the commands of *block*, with *more* for each server, and compare what they print."""
        for command, shown in documents.steps(block.text):
            served = re.search(r"(\w+):app$", command)
            if served:
                self.type(command.replace(" -c ", f"{more.format(served[1])} -c "), served[1])
            else:
                printed = self.type(command)
                assert documents.matches(shown, printed), printed

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return what Prometheus answers, with the labels of each sample."""
        time.sleep(0.3)  # asked again and again: it takes two programs
        command = f"curl 127.0.0.1:9090/api/v1/query --data-urlencode 'query={expression}'"
        found: list[dict[str, Any]] = json.loads(self.type(command))["data"]["result"]
        return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Have Prometheus with the page's configurations, and the servers with a port and a file each."""
    folder = tmp_path_factory.mktemp("several")
    for block in BLOCKS:
        if block.language == "python" and block.file is not None:
            (folder / block.file).write_text(block.text)
    jobs = [
        job
        for block in of("yaml")
        for job in yaml.safe_load(block.text.replace("15s", "1s"))["scrape_configs"]
    ]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (folder / "targets").mkdir()
    with documents.network() as network:
        found = Host(folder, network)
        try:
            found.run(of("console")[0], FILE)
            found.type("prometheus --config.file=prometheus.yml", "prometheus")
            yield found
        finally:
            found.stop()


def of(language: str) -> list[documents.Block]:
    return [block for block in BLOCKS if block.language == language]


def up(host: Host) -> dict[str, set[tuple[str, ...]]]:
    """Return the targets that are up, by job: of each its instance, and its application if Prometheus knows it."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for item in host.ask("up == 1"):
        labels = item["metric"]
        known = [labels[name] for name in ("instance", "application") if name in labels]
        found.setdefault(labels["job"], set()).add(tuple(known))
    return found


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has two applications, two times two servers, four configurations of Prometheus, nginx and its list, and a query."""
    assert ["shop.py", "blog.py", "ports.yml", "files.yml", "paths.yml", "sd.yml"] == [
        block.file for block in BLOCKS if block.file
    ]
    assert ["console", "console", "nginx", "json", "promql"] == [
        block.language for block in BLOCKS if not block.file
    ]


def test_a_port_a_file_or_a_path_each(host: Host) -> None:
    """Prometheus finds both applications at their ports and by their files, then behind nginx by its configuration and by /sd."""
    by_port = {
        "shop": {("127.0.0.1:9464",)},
        "blog": {("127.0.0.1:9465",)},
        "files": {("127.0.0.1:9464", "shop:app"), ("127.0.0.1:9465", "blog:app")},
    }
    assert by_port == live.eventually(lambda: up(host), lambda found: found == by_port)
    (query,) = of("promql")
    whose = live.eventually(lambda: host.ask(queries.shortened(query.text, 10)), bool)
    assert [{"application": "shop:app"}] == [item["metric"] for item in whose]

    host.run(of("console")[1])
    (listed,), (server,) = of("json"), of("nginx")
    (host.folder / "sd.json").write_text(listed.text)
    (host.folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {host.folder}/pid; error_log stderr notice; events {{}}\n"
        f"http {{ access_log off; {server.text.replace('/srv/app', str(host.folder))} }}\n"
    )
    host.type("nginx -p $PWD -c $PWD/nginx.conf", "nginx")
    by_path = {("127.0.0.1:9400/shop", "shop"), ("127.0.0.1:9400/blog", "blog")}
    behind_nginx = {"paths": by_path, "sd": by_path}
    assert behind_nginx == live.eventually(
        lambda: {job: found for job, found in up(host).items() if job in behind_nginx},
        lambda found: found == behind_nginx,
    )
