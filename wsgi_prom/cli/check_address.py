"""
Findings of `wsgi-prom check` about the exporter's address: whether it is free, and who can connect to it.
"""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.cli.output import Finding
from wsgi_prom.cli.running import command_line, listening, psutil, running_servers
from wsgi_prom.exporter.access import parse_ip
from wsgi_prom.exporter.http.listening import answers
from wsgi_prom.setting_values import WILDCARDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.setting_values import Address
    from wsgi_prom.settings import Settings

_CHANGE: Final = "set WSGI_PROM_BIND to another address, or to off"
_INSTALL: Final = "to see which process has it, pip install 'wsgi-prom[processes]'"


def findings(settings: Settings) -> Iterator[Finding]:
    address = settings.bind
    if address is None:
        return
    if address.path:
        yield _path(address)
        return
    try:
        taken = _bound(address)
    except PermissionError as error:  # a port below 1024: the exporter's user may have the right
        remedy = "set WSGI_PROM_BIND to a port from 1024 up"
        yield Finding("address", None, f"this user cannot listen on {address}: {error.strerror}", remedy)
        return
    except OSError as error:
        remedy = "set WSGI_PROM_BIND to an address of this machine"
        yield Finding("address", False, f"nothing can listen on {address}: {error.strerror or error}", remedy)
        return
    free = Finding("address", True, f"{address} is {'free' if address.port else 'any port that is free'}")
    yield _taken(address) if taken else free
    if not (settings.token_file or settings.web_config or settings.allow or _loopback(address)):
        yield Finding(
            "access",
            None,
            f"{address} is open to every network that reaches it: every client that connects can read the metrics",
            "set WSGI_PROM_TOKEN_FILE, or WSGI_PROM_WEB_CONFIG with TLS and users; or WSGI_PROM_ALLOW; or "
            f"WSGI_PROM_BIND=127.0.0.1:{address.port}",
        )


def _path(address: Address) -> Finding:
    path = Path(address.path)
    another = "set WSGI_PROM_BIND to another path"
    try:
        if answers(address.path):
            return _taken(address)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return Finding("address", False, f"{path} exists and is not a socket", another)
    except FileNotFoundError:
        if not path.parent.is_dir():
            remedy = "make it, or set WSGI_PROM_BIND to another path"
            return Finding("address", False, f"{path.parent} is not a directory", remedy)
    except OSError as error:
        return Finding("address", False, f"{path}: {error.strerror or error}", another)
    return Finding("address", True, f"{address} is free")


def _taken(address: Address) -> Finding:
    exporters = [server for server in running_servers() if server.exporter]
    if psutil() is None:
        if not exporters:
            return Finding("address", False, f"{address} is in use", f"{_CHANGE}; {_INSTALL}")
        message = f"{address} is in use, perhaps by the exporter of a running server (see below)"
        return Finding("address", None, message, f"if it is another process, {_CHANGE}; {_INSTALL}")
    for server in exporters:
        if any(_overlap(address, other) for other in server.metrics_at()):
            message = f"{address} is in use by the exporter of a running server: {server}"
            return Finding("address", None, message, f"if that is not this server, {_CHANGE}")
    pid = next((pid for other, pid in listening() if pid and _overlap(address, other)), None)
    holder = f"pid {pid} ({command_line(pid)})" if pid else "a process that this user may not see"
    return Finding("address", False, f"{address} is in use by {holder}", _CHANGE)


def _bound(address: Address) -> bool:
    """
    Tell whether a socket is bound to the port of *address*. Raises OSError if nothing could be bound to it.

    Binds as the exporter does, and does not listen(): a server that starts at this moment gets the port.
    """
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


def _overlap(address: Address, other: Address) -> bool:
    """Tell whether a socket at *other*, an IP address or a path, keeps another from *address*."""
    if address.path or address.port != other.port:
        return address == other
    host = _resolve(address)[1][0]
    return host == other.host or bool(WILDCARDS & {host, other.host})


def _loopback(address: Address) -> bool:
    return parse_ip(_resolve(address)[1][0]).is_loopback


def _resolve(address: Address) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the IP address that an exporter told of *address* binds."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:
        raise OSError(f"{address.host!r} has a label that is empty or too long") from error
    return found[0][0], found[0][4]
