"""
Whether an address is in use, and by which process. Processes are known where psutil is installed.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from wsgi_prom.settings import Address

INSTALL: Final = "to see which process has it, pip install 'wsgi-prom[processes]'"
_WILDCARDS: Final = {"0.0.0.0", "::"}  # noqa: S104 - only compared


def in_use(address: Address) -> bool:
    """
    Tell whether another socket keeps an exporter from listening at *address*. Raises OSError where none could listen.

    A path is connected to. A port is bound for a moment, as the exporter binds it; without listen(), so that a server that
    starts meanwhile gets it all the same.
    """
    if address.path:
        return _answers(address.path)
    family, name = _resolve(address)
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # its backlog is full
            return True
    return True


def host(address: Address) -> str:
    """Return the IP address that an exporter told of *address*, a host and a port, listens at. Raises OSError."""
    return str(_resolve(address)[1][0])


def _resolve(address: Address) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:
        raise OSError(f"{address.host!r} has a label that is empty or too long") from error
    return found[0][0], found[0][4]


def psutil() -> Any:
    """Return psutil, or None where it is not installed."""
    # Not imported above: every command imports this module.
    with suppress(ImportError):
        return import_module("psutil")
    return None


def listening(pid: int) -> list[Address]:
    """Return the addresses that process *pid* listens at; none without psutil, or if it is gone or another user's."""
    return [address for address, _ in _listeners(pid)]


def holder(address: Address) -> int | None:
    """Return the pid of a process that listens where *address* is; None without psutil, or if it is another user's."""
    return next((pid for other, pid in _listeners() if pid and overlap(address, other)), None)


def overlap(address: Address, other: Address) -> bool:
    """Tell whether a socket at *other*, an IP address or a path, keeps one from *address*. Raises OSError."""
    if address.path or address.port != other.port:
        return address == other
    return host(address) == other.host or bool(_WILDCARDS & {host(address), other.host})


def command_line(pid: int) -> str:
    """Return the command line of process *pid*; empty without psutil, or if it is gone."""
    processes = psutil()
    if processes is None:
        return ""
    try:
        return " ".join(processes.Process(pid).cmdline()).strip()
    except processes.Error:
        return ""


def _listeners(pid: int | None = None) -> list[tuple[Address, int | None]]:
    """Return the addresses that processes listen at, or that process *pid* does, each with a pid that this user may know."""
    processes = psutil()
    if processes is None:
        return []
    try:
        source = processes if pid is None else processes.Process(pid)
        # Of a unix socket /proc tells psutil no state; one that only connects has no path.
        found = [
            (Address(*item.laddr) if item.family != socket.AF_UNIX else Address(path=item.laddr), item)
            for item in (*source.net_connections("tcp"), *source.net_connections("unix"))
            if item.laddr and item.status in {processes.CONN_LISTEN, processes.CONN_NONE}
        ]
    except (processes.Error, RuntimeError):  # the latter for a line of the kernel's that psutil cannot read
        return []
    return [(address, getattr(item, "pid", pid)) for address, item in found]
