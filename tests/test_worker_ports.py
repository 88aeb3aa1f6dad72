"""The ports of workers' pages, as other processes read them, also where the kernel knows no locks of open files."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from processes import Child, share

from wsgi_prom.store import directory
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.worker_ports import WorkerPort, ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUERIES = (fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK)


@pytest.fixture
def telling(shared: Path) -> Iterator[Path]:
    """Yield a directory in which two living processes have told a port each: 9100 of slot 3, and 9101 of slot 60000."""
    directory.prepare(shared)

    def tell(slot: int, port: int) -> None:
        share(shared)
        tell.port = WorkerPort(port)  # type: ignore[attr-defined]
        tell.port.tell(shared, slot)  # type: ignore[attr-defined]

    with Child(tell) as first, Child(tell) as second:
        first.call(3, 9100)
        second.call(60000, 9101)
        yield shared


def test_a_kernel_without_locks_of_open_files(telling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On gVisor, which refuses queries about them, the ports are known by few queries, that of the own process too."""
    real, asked = fcntl.fcntl, []

    def of_gvisor(fd: int, command: int, argument: Any = 0) -> Any:
        if command in QUERIES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        asked.append(command)
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", of_gvisor)
    own = WorkerPort(9102)
    own.tell(telling, 5)
    found = ports(telling)
    own.release()
    assert {3: 9100, 5: 9102, 60000: 9101} == found
    assert {3: 9100, 60000: 9101} == ports(telling)
    assert len(asked) < 100


def test_a_kernel_that_answers_about_other_bytes(telling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that names a lock outside of the bytes that were asked for ends the search."""
    real = fcntl.fcntl

    def odd(fd: int, command: int, argument: Any = 0) -> Any:
        if command in {fcntl.F_OFD_GETLK, fcntl.F_GETLK}:
            return struct.pack("@hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 1 << 50, 1, 7)
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", odd)
    assert {} == ports(telling)


def test_a_lock_of_the_whole_file(telling: Path) -> None:
    """A program that locks all of the lock file keeps nobody busy with all of its bytes."""
    before = ports(telling)

    def lock(path: Path) -> None:
        lock.file = (path / "wsgi_prom.lock").open("rb+")  # type: ignore[attr-defined]
        for start, length in ((1 << 43, 0), (64, 1 << 30)):
            fcntl.lockf(lock.file, fcntl.LOCK_EX, length, start)  # type: ignore[attr-defined]

    with Child(lock) as other:
        other.call(telling)
        found = ports(telling)
        listed = sum(1 for _ in LockFile.of(telling).holders(range(64, 1 << 44)))
    assert ({3: 9100, 60000: 9101}, True) == (before, before.items() <= found.items())
    assert listed < 1000
