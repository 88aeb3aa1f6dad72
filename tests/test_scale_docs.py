"""docs/scale.md: an agent of Prometheus sends on what it has scraped, also what it could not send for a while."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import documents
import live
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "scale.md").read_text()
BLOCKS = documents.blocks(TEXT)
CONSOLE = [block for block in BLOCKS if block.language == "console"]
# Each scrape of the exporter adds 1, and nobody else scrapes it.
SCRAPES = 'wsgi_prom_scrapes_total{code="200"}[10m]'


class Hosts:
    """A terminal for each of the programs: the server, the agent, and the Prometheus that receives."""

    def __init__(self, folder: Path, network: int) -> None:
        self.folder = folder
        self._readers = {
            name: documents.Reader(folder, live.BIN, network) for name in ("server", "agent", "central")
        }

    def type(self, command: str) -> str:
        names = {"gunicorn": "server", "prometheus --enable-feature=agent": "agent", "prometheus": "central"}
        name = next((name for begin, name in names.items() if command.startswith(begin)), "server")
        return self._readers[name].type(command)

    def end_central(self) -> None:
        self._readers["central"].end("prometheus")

    def stop(self) -> None:
        for reader in self._readers.values():
            reader.stop()

    def ask(self, expression: str, port: int = 9090) -> float:
        """Return the only value of *expression* in the Prometheus that receives, 0 if it has none."""
        time.sleep(0.3)  # asked again and again: it takes two programs
        command = f"curl 127.0.0.1:{port}/api/v1/query --data-urlencode 'query={expression}'"
        found: list[dict[str, Any]] = json.loads(self.type(command))["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text.replace("15s", "1s"))
    with documents.network() as network:
        found = Hosts(tmp_path, network)
        try:
            yield found
        finally:
            found.stop()


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has an application, configurations, the commands, an alert, and what `make fleet` printed."""
    assert ["shop.py", "agent.yml", "central.yml", "shard.yml"] == [
        block.file for block in BLOCKS if block.file
    ]
    assert ["console", "console", "promql", "console", "console"] == [
        block.language for block in BLOCKS if not block.file
    ]
    assert ["make fleet", "promtool check config shard.yml"] == [
        step.command for block in CONSOLE[2:] for step in documents.steps(block.text)
    ]


def test_an_outage_of_the_receiver_loses_no_scrape(hosts: Hosts) -> None:
    """What the agent scrapes while the receiver is down is in it afterwards, each scrape at its own time."""
    first, central = CONSOLE[:2]
    for command, _ in [*documents.steps(first.text), *documents.steps(central.text)]:
        hosts.type(command)
    count = f"count_over_time({SCRAPES})"
    before = live.eventually(lambda: hosts.ask(count), lambda found: found >= 3)
    hosts.end_central()
    time.sleep(6)
    hosts.type(documents.steps(central.text)[0].command)
    after = live.eventually(lambda: hosts.ask(count), lambda found: found >= before + 8)
    # Not one is missing in between, and none is there twice.
    whole = f"max_over_time({SCRAPES}) - min_over_time({SCRAPES}) + 1 - count_over_time({SCRAPES})"
    assert (True, 0.0) == (after > before, hosts.ask(whole))
    (alert,) = [block.text for block in BLOCKS if block.language == "promql"]
    assert (1.0, 0.0) == (hosts.ask(f"count({alert.partition(' > ')[0]})"), hosts.ask(f"count({alert})"))
    assert "web-1" in hosts.type("curl '127.0.0.1:9090/api/v1/query?query=up'")


def test_a_shard(hosts: Hosts) -> None:
    """Prometheus takes the configuration of a shard, and four of them have each target once."""
    addresses = [f"127.0.0.1:{port}" for port in range(1, 101)]
    (hosts.folder / "targets").mkdir()
    (hosts.folder / "targets" / "all.json").write_text(json.dumps([{"targets": addresses}]))
    (step,) = documents.steps(CONSOLE[3].text)
    assert documents.matches(step.shown, hosts.type(step.command))
    (shard,) = (yaml.safe_load(block.text)["scrape_configs"] for block in BLOCKS if block.file == "shard.yml")
    (job,) = shard
    *_, keep = job["relabel_configs"]
    jobs = []
    for number in range(4):
        keep["regex"] = str(number)
        jobs.append(json.loads(json.dumps({**job, "job_name": f"shard {number}"})))
    (hosts.folder / "central.yml").write_text(json.dumps({"scrape_configs": jobs}))
    hosts.type("prometheus --config.file=central.yml")

    def found() -> list[tuple[str, str]]:
        answer = json.loads(hosts.type("curl '127.0.0.1:9090/api/v1/targets?state=active'"))
        return [
            (target["labels"]["instance"], target["labels"]["job"])
            for target in answer["data"]["activeTargets"]
        ]

    targets = live.eventually(found, lambda targets: len(targets) == len(addresses))
    assert (sorted(addresses), 4) == (
        sorted(address for address, _ in targets),
        len({name for _, name in targets}),
    )


def test_make_fleet_is_a_command() -> None:
    """The command whose figures the page quotes exists, and so do the links and the tests that it names."""
    assert re.search(r"^fleet:", (live.ROOT / "Makefile").read_text(), re.MULTILINE)
    names = [live.ROOT / "docs" / link for link in re.findall(r"\]\(([\w.]+)\)", TEXT)]
    names += [live.ROOT / test for test in re.findall(r"`(tests/\w+\.py|bench/\w+\.py)`", TEXT)]
    assert [] == [name for name in names if not name.exists()]
