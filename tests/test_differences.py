"""docs/differences.md: what the client library's multiprocess mode does, and what ours does in its place, side by side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import live
import pytest
from test_guarantees import defined_in

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "differences.md").read_text()
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| (?!the client library|---)", line)]

PRELUDE = """
import os, sys, warnings
warnings.simplefilter("ignore")
path = sys.argv[1]
if {early}:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = path
from prometheus_client import *
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
if {ours}:
    from wsgi_prom.client import asking_thread
    from wsgi_prom.client.patch import install
    from wsgi_prom.store.current_slot import current_slot
    asking_thread._TICK_SECONDS = 0.1
    install()
def page(openmetrics=False, names=(), ready=""):
    import time
    from prometheus_client.openmetrics.exposition import generate_latest as om
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    chosen = registry.restricted_registry(names) if names else registry
    for _ in range(100):
        try:
            text = (om if openmetrics else generate_latest)(chosen).decode()
        except Exception as error:
            text = type(error).__name__
        if not {ours} or ready in text:
            break
        time.sleep(0.1)
    return sorted(line for line in text.splitlines() if not line.startswith("#"))
def forked(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    os.waitpid(pid, 0)
"""
LATE = 'c = Counter("c", "C")\nos.environ["PROMETHEUS_MULTIPROC_DIR"] = path\nc.inc()\nprint(page())'
DAMAGED = 'Counter("c", "C").inc()\nopen(f"{path}/counter_99.db", "wb").close()\nopen(f"{path}/gauge_all_98.db", "wb").write(b"x" * 99)\nprint(page())'
MANY = """
counter, gauge = Counter("c", "C"), Gauge("g", "G")
for _ in range(5):
    forked(lambda: (counter.inc(), gauge.set(1)))
print(len([line for line in page() if line.startswith("g{")]), [line for line in page() if line.startswith("c_")])
"""
FUNCTION = 'Gauge("g", "G", multiprocess_mode="livesum").set_function(lambda: 42)\nCounter("c", "C").inc()\nprint(page(ready="g 42"))'
CUSTOM = """
class Queue:
    def describe(self): return []
    def collect(self): return [GaugeMetricFamily("queue", "Q", 3)]
REGISTRY.register(Queue())
Counter("c", "C").inc()
print(page(ready="queue 3"))
"""
REMOVED = (
    'c = Counter("c", "C", ["a"])\nc.labels("x").inc()\nc.labels("y").inc()\nc.remove("x")\nprint(page())'
)
EXEMPLAR = 'Counter("c", "C").inc(exemplar={"id": "1"})\nprint("id=" in page(openmetrics=True)[0])'
ENUM = 'Enum("e", "E", states=["up"]).state("up")\nCounter("c", "C").inc()\nprint(page())'
OWN_PID = 'Gauge("g", "G", ["pid"]).labels("mine").set(1)\nprint([line.replace(str(os.getpid()), "0") for line in page()])'
INFO = 'Info("i", "I").info({"v": "1"})\nCounter("c", "C").inc()\nprint(page())'
NAMES = 'Counter("c", "C").inc()\nCounter("d", "D").inc()\nprint(page(names=["c_total"]))'
TWICE = """
registry = CollectorRegistry()
MultiProcessCollector(registry)
c = Counter("c", "C")
registry.register(c)
c.inc()
forked(c.inc)
for chosen in (registry, registry.restricted_registry(["c_total"])):
    print(sorted(line for line in generate_latest(chosen).decode().splitlines() if line.startswith("c_total")))
"""
NO_DIRECTORY = """
try:
    MultiProcessCollector(CollectorRegistry(), path + "/none")
    print("empty")
except ValueError:
    print("ValueError")
"""

# The code, and what it prints with the client library alone and with wsgi_prom.
CASES: dict[str, tuple[str, str, str]] = {
    "a directory that is named late": (LATE, "[]", "['c_total 1.0']"),
    "damaged files": (DAMAGED, "", "['c_total 1.0']"),
    "processes that have ended": (MANY, "6 ['c_total 5.0']", "1 ['c_total 5.0']"),
    "a function": (FUNCTION, "['c_total 1.0', 'g 0.0']", "['c_total 1.0', 'g 42.0']"),
    "a custom collector": (CUSTOM, "['c_total 1.0']", "['c_total 1.0', 'queue 3.0']"),
    "a removal": (REMOVED, """['c_total{a="x"} 1.0', 'c_total{a="y"} 1.0']""", """['c_total{a="y"} 1.0']"""),
    "an exemplar": (EXEMPLAR, "False", "True"),
    "an Info": (INFO, "['c_total 1.0']", """['c_total 1.0', 'i_info{v="1"} 1.0']"""),
    "an Enum": (ENUM, "['c_total 1.0']", """['c_total 1.0', 'e{e="up"} 1.0']"""),
    "a label pid": (OWN_PID, """['g{pid="0"} 1.0']""", """['g{exported_pid="mine",pid="0"} 1.0']"""),
    "names": (NAMES, "[]", "['c_total 1.0']"),
    "a metric in the registry of a MultiProcessCollector": (
        TWICE,
        "['c_total 1.0', 'c_total 2.0']\n['c_total 1.0']",
        "['c_total 2.0']\n['c_total 2.0']",
    ),
    "no directory": (NO_DIRECTORY, "ValueError", "empty"),
}


def run(path: Path, code: str, *, ours: bool, early: bool) -> str:
    path.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE.format(ours=ours, early=early) + code, str(path)],
        env={**os.environ, "PYTHONPATH": str(live.ROOT), "WSGI_PROM_COLLECT_SECONDS": "1"},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("name", CASES)
def test_side_by_side(name: str, tmp_path: Path) -> None:
    """The same program shows with the client library what the document says of it, and the other with wsgi_prom."""
    code, theirs, ours = CASES[name]
    early = name != "a directory that is named late"
    found = [run(tmp_path / str(mine), code, ours=mine, early=early) for mine in (False, True)]
    if name == "damaged files":
        # It raises whatever comes of the bytes.
        assert re.fullmatch(r"\['\w+(Error|error)'\]", found[0])
        theirs = found[0]
    assert [theirs, ours] == found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_difference_is_shown(row: str) -> None:
    """Each difference names its tests, or its case of the test above, and all of them exist."""
    shown = row.split("|")[-2]
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
    cases = re.findall(r"\*([^*]+)\*", shown)
    assert named or cases
    assert [] == [case for case in cases if case not in CASES]
    assert [] == [f"{path}::{name}" for path, name in named if name not in defined_in(live.ROOT / path)]


def test_every_case_is_in_the_document() -> None:
    """Each case above is named in a row."""
    assert set(CASES) == set(re.findall(r"\*([^*]+)\*", "".join(ROWS)))
