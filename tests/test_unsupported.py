"""Metrics that a shared page cannot show: an application that makes one is warned once, and no wrong value is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import live
import pytest

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import logging, sys
from pathlib import Path
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from prometheus_client import CollectorRegistry, Enum, Gauge, multiprocess
from wsgi_prom.exporter.exposition import render
from wsgi_prom.client.patch import install
from wsgi_prom.merge.collector import Collector
"""
MAKE = """
for number in (1, 2):
    Enum(f"state{number}", "S", states=["up"]).state("up")
"""
PAGE = """
names = [line.split()[0] for line in render(Collector(Path(sys.argv[1])).collect()).splitlines() if line[0] != "#"]
print(names)
"""


def run(path: Path, *parts: str) -> list[str]:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(path), "PYTHONPATH": str(live.ROOT)}
    path.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", "".join((PRELUDE, *parts)), str(path)],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("order", [("install()\n", MAKE), (MAKE, "install()\n")], ids=["after", "before"])
def test_each_kind_is_told_once_and_shows_no_figure(order: tuple[str, str], shared: Path) -> None:
    """
    Enum is warned of once, whether made before or after the installation.
    """
    warning, page = run(shared, *order, PAGE)
    assert warning.startswith("WARNING Enum state1 is on no page")
    assert page == "[]"


def test_merge_is_told_and_does_what_it_did(shared: Path) -> None:
    """An application that calls merge() itself is warned that the server's files are not among them."""
    code = """
install()
print(list(multiprocess.MultiProcessCollector.merge([])), list(multiprocess.MultiProcessCollector.merge([], accumulate=False)))
"""
    warning, result = run(shared, code)
    assert warning.startswith(
        "WARNING MultiProcessCollector.merge(files) knows the files of processes without wsgi_prom alone"
    )
    assert result == "[] []"


def test_the_librarys_own_collectors_are_no_news(shared: Path) -> None:
    """The client library's own collectors cause no warning."""
    assert [] == run(
        shared, "install()\nmultiprocess.MultiProcessCollector(CollectorRegistry())\nGauge('a', 'A').set(1)\n"
    )
