"""Check the exporter's address: whether it is free, and who can connect to it."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsgi_prom.cli.finding import Finding
from wsgi_prom.cli.listeners import INSTALL, command_line, holder, host, in_use, overlap, psutil
from wsgi_prom.cli.running import running_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.settings import Address, Settings

_CHANGE: Final = "set WSGI_PROM_BIND to another address, or to off"


def findings(settings: Settings) -> Iterator[Finding]:
    if settings.bind is None:
        return
    if settings.bind.path:
        yield _path(settings.bind)
    else:
        yield from _host(settings.bind, protected=_protected(settings))


def _host(address: Address, *, protected: bool) -> Iterator[Finding]:
    try:
        taken = in_use(address)
        loopback = _loopback(host(address))
    except OSError as error:
        message = f"{address} cannot be listened at: {error.strerror or error}"
        if isinstance(
            error, PermissionError
        ):  # a port below 1024, which the exporter's user may have the right to
            yield Finding("address", None, message, "set WSGI_PROM_BIND to a port from 1024 up")
        else:
            yield Finding("address", False, message, "set WSGI_PROM_BIND to an address of this machine")
        return
    if taken:
        yield _taken(address)
    else:
        yield Finding("address", True, f"{address} is {'free' if address.port else 'any port that is free'}")
    if not protected and not loopback:
        yield Finding(
            "access",
            None,
            f"{address} is open to every network that reaches it: whoever connects reads the metrics",
            "set WSGI_PROM_TOKEN_FILE or WSGI_PROM_USERS_FILE, with WSGI_PROM_TLS_CERT; or WSGI_PROM_ALLOW; or "
            f"WSGI_PROM_BIND=127.0.0.1:{address.port}",
        )


def _path(address: Address) -> Finding:
    path = Path(address.path)
    another = "set WSGI_PROM_BIND to another path"
    try:
        if in_use(address):
            return _taken(address)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return Finding("address", False, f"{path} is there, and is no socket", another)
    except FileNotFoundError:
        if not path.parent.is_dir():
            return Finding(
                "address", False, f"{path.parent} is not a directory", "make it, or set WSGI_PROM_BIND"
            )
    except OSError as error:
        return Finding("address", False, f"{path}: {error.strerror or error}", another)
    return Finding("address", True, f"{address} is free")


def _taken(address: Address) -> Finding:
    servers = [server for server in running_servers() if server.exporter]
    if psutil() is None:
        if not servers:
            return Finding("address", False, f"{address} is in use", f"{_CHANGE}; {INSTALL}")
        return Finding(
            "address",
            None,
            f"{address} is in use, perhaps by the exporter of a server that runs (see below)",
            f"if it is another process, {_CHANGE}; {INSTALL}",
        )
    for server in servers:
        if any(overlap(address, other) for other in server.metrics_at()):
            return Finding(
                "address",
                None,
                f"{address} is in use by the exporter of a server that runs: {server}",
                f"if that is another server than this one, {_CHANGE}",
            )
    pid = holder(address)
    by = f"pid {pid} ({command_line(pid)})" if pid else "a process that this user may not see"
    return Finding("address", False, f"{address} is in use by {by}", _CHANGE)


def _protected(settings: Settings) -> bool:
    return bool(settings.token_file or settings.users_file or settings.tls_client_ca or settings.allow)


def _loopback(host: str) -> bool:
    ip = ipaddress.ip_address(host.partition("%")[0])
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
