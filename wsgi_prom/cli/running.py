"""
Find this user's running servers by the locks in their directories, and the sockets of processes by psutil.

psutil is an extra. Without it, addresses and command lines are unknown.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from wsgi_prom.setting_values import Address
from wsgi_prom.store import directory, directory_files, environment, locks
from wsgi_prom.store.locks import LockFile


@dataclass(frozen=True)
class RunningServer:
    """A server: the shared *directory*, its master's *pid*, its *exporter*'s. A pid is 0 in another pid namespace."""

    directory: Path
    pid: int
    exporter: int | None

    def __str__(self) -> str:
        master = ", ".join(filter(None, (f"pid {self.pid}", command_line(self.pid))))
        addresses = ", ".join(map(str, self.metrics_at()))
        exporter = "no exporter" if self.exporter is None else "an exporter"
        return (
            f"{self.directory}  ({master if self.pid else 'in another pid namespace'}; "
            f"{f'metrics at {addresses}' if addresses else exporter})"
        )

    def metrics_at(self) -> list[Address]:
        """Return the addresses that its exporter listens on, as far as they are known."""
        return [address for address, _ in listening(self.exporter)] if self.exporter else []


def running_servers() -> list[RunningServer]:
    """
    Return the servers with a living master: all users' for root, else this user's own.

    A server is found if its hook made the directory or the environment names it. Writes nothing and takes no lock.
    """
    found = []
    # The bases of directory.name_temporary. Not by tempfile, which writes a file to find a folder that it can write to.
    bases = {Path("/dev/shm"), Path(os.environ.get("TMPDIR") or "/tmp")}  # noqa: S108 - only read
    paths = {path for base in bases for path in _temporary_directories(base)}
    named = environment.configured()
    for path in sorted(paths | ({directory_files.own_directory(named.absolute())} if named else set())):
        with suppress(OSError):  # its server has just removed it
            server = server_of(path)
            if server is not None:
                found.append(server)
    return found


def _temporary_directories(base: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in base.iterdir() if directory.is_temporary(path)]
    return []


def server_of(path: Path) -> RunningServer | None:
    """Return the server that uses the directory *path*, None if none runs, or if this user may not look. Raises OSError."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or os.geteuid() not in {0, found.st_uid}:
        return None
    # Not by LockFile.of, which opens it for writing. Closing it loses no lock: this process holds none in it.
    fd = os.open(path / locks.NAME, os.O_RDONLY | directory_files.SAFE_FLAGS)
    try:
        lock_file = LockFile(fd)
        pid = next(lock_file.servers(), None)
        return None if pid is None else RunningServer(path, pid, lock_file.holder(locks.EXPORTER))
    finally:
        os.close(fd)


def psutil() -> Any:
    """Return psutil, or None where it is not installed."""
    with suppress(ImportError):
        return import_module("psutil")
    return None


def command_line(pid: int) -> str:
    """Return the command line of process *pid*; empty without psutil, or if the process has ended."""
    processes = psutil()
    if processes is None or not pid:
        return ""
    try:
        return " ".join(processes.Process(pid).cmdline()).strip()
    except processes.Error:
        return ""


def listening(pid: int | None = None) -> list[tuple[Address, int | None]]:
    """
    Return the addresses that process *pid*, or any process, listens on, each with the pid if this user may know it.

    Empty without psutil, or if the process has ended or is another user's.
    """
    processes = psutil()
    if processes is None:
        return []
    try:
        source = processes if pid is None else processes.Process(pid)
        # psutil knows no state of a unix socket; one that only connects has no path.
        found = [
            (Address(*item.laddr) if item.family != socket.AF_UNIX else Address(path=item.laddr), item)
            for item in (*source.net_connections("tcp"), *source.net_connections("unix"))
            if item.laddr and item.status in {processes.CONN_LISTEN, processes.CONN_NONE}
        ]
    except (processes.Error, RuntimeError):  # RuntimeError: a line of /proc that psutil cannot parse
        return []
    return [(address, getattr(item, "pid", pid)) for address, item in found]
