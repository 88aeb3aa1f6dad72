"""The modes of a gauge, with living and ended processes: as the client library has them, the label `pid` but a slot's number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import live

if TYPE_CHECKING:
    from pathlib import Path

SCENARIO = """
import json, os, sys
if sys.argv[1] == "ours":
    import wsgi_prom.client.patch
    wsgi_prom.client.patch.install()
from prometheus_client import CollectorRegistry, Gauge, multiprocess
modes = [live + kind for live in ("", "live") for kind in ("all", "min", "max", "sum", "mostrecent")]
gauges = {mode: Gauge(f"g_{mode}", "Help.", ["zone"], multiprocess_mode=mode) for mode in modes}

def use(*values):
    for mode, gauge in gauges.items():
        for value in values:
            gauge.labels("a").set(value)
        if not mode.endswith("mostrecent"):
            gauge.labels("a").inc(2)
            gauge.labels("a").dec()

def process(*values):
    told, telling = os.pipe()
    waiting, until = os.pipe()
    pid = os.fork()
    if pid == 0:
        use(*values)
        os.write(telling, b"x")
        os.read(waiting, 1)
        os._exit(0)
    os.read(told, 1)
    return pid, until

def end(pid, until):
    os.write(until, b"x")
    os.waitpid(pid, 0)
    multiprocess.mark_process_dead(pid)

def page():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return [
        [sample.name, sample.labels.get("zone"), sample.labels.get("pid"), sample.value]
        for metric in registry.collect() for sample in metric.samples if sample.name.startswith("g_")
    ]

pages = []
first = process(4.0, -3.0)
second = process(7.0)
third = process(1.0, 2.5)
pages.append(page())
end(*third)
pages.append(page())
end(*first)
pages.append(page())
end(*second)
pages.append(page())
print(json.dumps(pages))
"""


def pages(which: str, path: Path) -> list[list[tuple[str, str, str | None, float]]]:
    path.mkdir(mode=0o700)
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(path), "PYTHONPATH": str(live.ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SCENARIO, which]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [[tuple(sample) for sample in page] for page in json.loads(done.stdout)]


def test_each_mode_shows_what_the_client_library_shows(tmp_path: Path) -> None:
    """In all ten modes, while three forked processes end one after another; where each has a sample, `pid` is its slot's number."""
    ours, stock = pages("ours", tmp_path / "ours"), pages("stock", tmp_path / "stock")
    for page, wanted in zip(ours, stock, strict=True):
        # The pid of a sample tells processes apart, and is another number.
        assert Counter((name, zone, value, pid is None) for name, zone, pid, value in wanted) == Counter(
            (name, zone, value, pid is None) for name, zone, pid, value in page
        )
        slots = [pid for name, _, pid, _ in page if name == "g_all"]
        assert {"0", "1", "2"} == set(slots)
