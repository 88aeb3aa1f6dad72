"""Processes that join a server's, and do what tests tell them line by line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import live

from wsgi_prom.store import directory_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PROGRAM = """
import os, sys
from prometheus_client import Counter, Gauge
DONE = Counter("jobs_done_total", "Jobs that were done.", registry=None)
LEFT = Gauge("jobs_left", "Jobs that are left.", multiprocess_mode="livesum", registry=None)
import wsgi_prom
exec(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
FORK = "pid = os.fork(); pid or (DONE.inc(), os._exit(0)); os.waitpid(pid, 0)"


class Joined:
    """A process that runs *first*, and then each line that it is told."""

    def __init__(self, first: str, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, first], env=live.environment(env, runtime=live.ROOT),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._answer("ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        """Have it run *line*, and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        self._answer("done")

    def _answer(self, expected: str) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != f"{expected}\n":
            raise AssertionError(self._process.communicate(timeout=live.STOP_SECONDS)[1])

    def until(self, words: str) -> str:
        """Wait for a line with *words* that it writes to stderr, and return it."""
        assert self._process.stderr is not None
        return next(line for line in self._process.stderr if words in line)

    def end(self, number: int | None = None) -> str:
        """Have it end by itself, or by signal *number*, and return what it has written to stderr."""
        if number is not None:
            self._process.send_signal(number)
        return self._process.communicate(timeout=live.STOP_SECONDS)[1]


@contextlib.contextmanager
def joined(first: str = "wsgi_prom.join(role='consumer')", **env: str) -> Iterator[Joined]:
    process = Joined(first, **env)
    try:
        yield process
    finally:
        # Its forks too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process._process.communicate(timeout=live.STOP_SECONDS)


def new_name() -> tuple[str, Path]:
    """Return a name that nobody has, and the directory of those who share it."""
    name = f"test_{uuid.uuid4().hex}"
    return name, directory_names.directory_of(name)


def gone(path: Path) -> bool:
    """Wait until *path* is not there."""
    return not live.eventually(path.exists, lambda there: not there, live.STOP_SECONDS)
