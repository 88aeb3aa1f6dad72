"""A real Prometheus server that scrapes pages every second, and is asked in PromQL."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import live

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


class Prometheus:
    """A running Prometheus."""

    def __init__(self, server: live.LiveServer) -> None:
        self._server = server

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the samples of *expression* now, or *at* a time: of each its labels, `metric`, and its `value`."""
        query = urllib.parse.urlencode({"query": expression, **({} if at is None else {"time": at})})
        answer = json.loads(self._server.get(f"/api/v1/query?{query}").body)
        assert "success" == answer["status"], answer
        return [
            {"metric": item["metric"], "value": float(item["value"][1])} for item in answer["data"]["result"]
        ]

    def exemplars(self, expression: str, seconds: float = 600) -> list[dict[str, Any]]:
        """Return the exemplars of the last *seconds* by series: its `seriesLabels`, and `exemplars` with labels, value, timestamp."""
        now = time.time()
        query = urllib.parse.urlencode({"query": expression, "start": now - seconds, "end": now + seconds})
        answer = json.loads(self._server.get(f"/api/v1/query_exemplars?{query}").body)
        assert "success" == answer["status"], answer
        found: list[dict[str, Any]] = answer["data"]
        return found

    def log(self) -> str:
        return self._server.log()

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules as they were evaluated last: of each its `name`, `health` and `lastError`, of an alert its `state`."""
        answer = json.loads(self._server.get("/api/v1/rules").body)
        assert "success" == answer["status"], answer
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    def value(self, expression: str, at: float | None = None) -> float | None:
        """Return the only sample of *expression*, None if it has none."""
        found = self.query(expression, at)
        assert len(found) < 2, found
        return found[0]["value"] if found else None


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, Mapping[str, str]], *options: str, rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """
    Start a Prometheus with *options* that scrapes *targets*, labels by address, and wait until it has scraped each.

    It evaluates the files *rules* every second.
    """
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {
                "job_name": "app",
                "static_configs": [
                    {"targets": [target], "labels": dict(labels)} for target, labels in targets.items()
                ],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with live.hold_port() as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={folder / 'data'}", *options]  # fmt: skip
        with live.LiveServer(
            command, ready=(r"ready to receive web requests", 1), url=f"http://{address}"
        ) as server:
            found = Prometheus(server)
            assert len(targets) == live.eventually(
                lambda: found.value("sum(up)"), lambda up: up == len(targets)
            )
            yield found


def shortened(expression: str, seconds: int) -> str:
    """Return *expression* with each range of minutes replaced by one of *seconds*, so that a test need not wait for them."""
    return re.sub(r"\[\d+m\]", f"[{seconds}s]", expression)


def check_rules(path: Path) -> None:
    """Have promtool check a file of rules."""
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr + done.stdout


def settle(seconds: float) -> float:
    """Wait until ranges of *seconds* have no older samples in them, and return the time."""
    time.sleep(seconds)
    return time.time()
