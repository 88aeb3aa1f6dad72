"""Find this user's running servers by the locks in their directories, for commands without --directory."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.listeners import command_line, listening
from wsgi_prom.store import directory, directory_files, environment, locks
from wsgi_prom.store.locks import Locks

if TYPE_CHECKING:
    from wsgi_prom.settings import Address


@dataclass(frozen=True)
class RunningServer:
    """A server: the *directory* of its processes, its master's *pid*, its *exporter*'s; a pid is 0 in another pid namespace."""

    directory: Path
    pid: int
    exporter: int | None

    def __str__(self) -> str:
        named = (
            ", ".join(filter(None, (f"pid {self.pid}", command_line(self.pid))))
            if self.pid
            else "in another pid namespace"
        )
        found = ", ".join(map(str, self.metrics_at()))
        metrics = (
            f"metrics at {found}" if found else "no exporter" if self.exporter is None else "an exporter"
        )
        return f"{self.directory}  ({named}; {metrics})"

    def metrics_at(self) -> list[Address]:
        """Return the addresses that its exporter listens at; none where they cannot be known."""
        return listening(self.exporter) if self.exporter else []


def running_servers() -> list[RunningServer]:
    """
    Return the servers with a living master: all users' for root, else this user's own.

    A server is found if the hook made its directory, or if the environment names it. Makes nothing and takes no lock.
    """
    found = []
    # Where directory.name_temporary makes them. Not by tempfile, which writes a file to find a folder that it can write to.
    bases = {Path("/dev/shm"), Path(os.environ.get("TMPDIR") or "/tmp")}  # noqa: S108 - only looked at
    paths = {path for base in bases for path in _listed(base)}
    named = environment.configured()
    for path in sorted(paths | ({directory_files.own_directory(named.absolute())} if named else set())):
        with suppress(OSError):  # its server has just removed it
            server = _server(path)
            if server is not None:
                found.append(server)
    return found


def _listed(base: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in base.iterdir() if directory.temporary(path)]
    return []


def _server(path: Path) -> RunningServer | None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or os.geteuid() not in {0, found.st_uid}:
        return None
    # Not by Locks.of, which opens it for writing. Closing it loses no lock: this process holds none in it.
    fd = os.open(path / locks.NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        lock_file = Locks(fd)
        pid = next(lock_file.servers(), None)
        return None if pid is None else RunningServer(path, pid, lock_file.holder(locks.EXPORTER))
    finally:
        os.close(fd)
