"""
Real processes that write a Counter and a Histogram of many label sets into one shared directory.

Run as a child process: it forks the writers, which live until the child ends, or end once they have written.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from harness import Child, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

# Label sets of a worker, in most benchmarks.
LABELS: Final = 1000


class LabelSets:
    """
    *count* label sets of a Counter and of a Histogram with the client library's 15 buckets, as an application has them.
    """

    def __init__(self, count: int) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry()
        names = ("method", "route", "status")
        orders = Counter("shop_orders", "Orders taken.", names, registry=registry)
        seconds = Histogram("shop_order_seconds", "How long an order took.", names, registry=registry)
        labels = [("GET", f"/shops/{number}/orders/<int:order>", "200") for number in range(count)]
        self._children = [(orders.labels(*values), seconds.labels(*values)) for values in labels]
        self._turn = 0

    def record(self, number: int, seconds: float) -> None:
        counter, histogram = self._children[number % len(self._children)]
        counter.inc()
        histogram.observe(seconds)

    def change(self) -> None:
        """Record into each label set once: by turns into all buckets, with sums of as many digits as real ones."""
        self._turn += 1
        for number in range(len(self._children)):
            self.record(number, 0.00371 * 1.9 ** ((number + self._turn) % 15))


class Writers:
    """
    A directory on tmpfs, and the child that fills it, for the length of a `with` block.

    *contender* says which value class writes: "stock", the client library's multiprocess mode, or "ours". A *path*
    that is given is filled, and not removed.
    """

    def __init__(self, contender: str, path: Path | None = None) -> None:
        self._contender = contender
        self._given = path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.path = self._given or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
            )
            environ = {"PROMETHEUS_MULTIPROC_DIR": str(self.path)}
            command = ["-c", "import filler; filler.main()", self._contender]
            self._child = stack.enter_context(Child(command, environ))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def hold(self, writers: int, labels: int) -> None:
        """Start processes that write, and stay for `change`. Return when all have written."""
        self._child.ask({"hold": [writers, labels]})

    def end(self, writers: int, labels: int, at_once: int = 1) -> None:
        """Start processes that write and end, *at_once* at a time."""
        self._child.ask({"end": [writers, labels, at_once]})

    def change(self) -> None:
        """Have every label set of every writer that is held change, and wait until all have."""
        self._child.ask({"change": []})


class _WriterParent:
    """Runs in the child process: it forks the writers, and records nothing itself."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def respond(self, question: dict[str, list[int]]) -> None:
        for name, arguments in question.items():
            getattr(self, name)(*arguments)

    def hold(self, writers: int, labels: int) -> None:
        started = []
        for _ in range(writers):
            ours, theirs = socket.socketpair()
            self._held.append(ours)
            started.append(ours)
            _fork(lambda theirs=theirs: self._write(theirs, labels))
            theirs.close()
        self._wait(started)

    def end(self, writers: int, labels: int, at_once: int) -> None:
        for number in range(writers):
            if number >= at_once:
                _reap()
            _fork(lambda: LabelSets(labels).change())
        for _ in range(min(writers, at_once)):
            _reap()

    def change(self) -> None:
        for connection in self._held:
            connection.send(b"?")
        self._wait(self._held)

    def _wait(self, connections: list[socket.socket]) -> None:
        for connection in connections:
            if not connection.recv(1):
                raise RuntimeError("a writer has ended")

    def _write(self, connection: socket.socket, labels: int) -> None:
        # Inherited from the parent. While one is open here, its peer does not see it closed.
        for other in self._held:
            other.close()
        sets = LabelSets(labels)
        sets.change()
        connection.send(b"!")
        while connection.recv(1):
            sets.change()
            connection.send(b"!")


def _fork(work: Callable[[], Any]) -> None:
    # A garbage collection in a writer then copies no memory that the writers share.
    gc.collect()
    gc.freeze()
    if os.fork():
        return
    status = 1
    try:
        work()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap() -> None:
    pid, status = os.wait()
    if status:
        raise RuntimeError(f"writer {pid} ended with {os.waitstatus_to_exitcode(status)}")


def main() -> None:
    if sys.argv[1] == "ours":
        from wsgi_prom.client import patch

        patch.install()
    import prometheus_client  # noqa: F401 - before the forks, which share it

    answer(_WriterParent().respond)
