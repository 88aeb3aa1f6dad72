"""What slots have no counterpart for: an application that uses it is warned once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import live

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from prometheus_client import CollectorRegistry, Gauge, multiprocess
from wsgi_prom.client.patch import install
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
