"""What `wsgi-prom check` finds about the address of the exporter: whether it is free, and to whom it is open."""

from __future__ import annotations

import ipaddress
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli.finding import Finding
from wsgi_prom.cli.listeners import command_line, holders, in_the_way, resolve
from wsgi_prom.cli.running import running_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.cli.listeners import Listener
    from wsgi_prom.settings import Address, Settings


def findings(settings: Settings) -> Iterator[Finding]:
    address = settings.bind
    if address is None:
        return
    try:
        taken = in_the_way(address)
        host = "" if address.path else resolve(address.host)
    except OSError as error:
        yield Finding(
            "address",
            False,
            f"{address} is not an address of this machine: {error.strerror or error}",
            "set WSGI_PROM_BIND to one of this machine",
        )
        return
    if taken:
        yield _taken(address, taken[0])
    elif address.path:
        yield _path(address)
    else:
        yield Finding("address", True, f"{address} is {'free' if address.port else 'any port that is free'}")
    if host and not _protected(settings) and not _loopback(host):
        yield Finding(
            "access",
            None,
            f"{address} is open to every network that reaches it: whoever connects reads the metrics",
            "set WSGI_PROM_TOKEN_FILE or WSGI_PROM_USERS_FILE, with WSGI_PROM_TLS_CERT; or WSGI_PROM_ALLOW; or "
            f"WSGI_PROM_BIND=127.0.0.1:{address.port}",
        )


def _taken(address: Address, listener: Listener) -> Finding:
    pids = holders(listener.inode)
    for server in running_servers():
        if server.exporter in pids:
            return Finding(
                "address",
                None,
                f"{address} is in use by the exporter of a server that runs: {server}",
                "if that is another server than this one, set WSGI_PROM_BIND to another address, or to off",
            )
    by = f"pid {pids[0]} ({command_line(pids[0])})" if pids else "a process of another user"
    return Finding(
        "address", False, f"{address} is in use by {by}", "set WSGI_PROM_BIND to another address, or to off"
    )


def _path(address: Address) -> Finding:
    path = Path(address.path)
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return Finding(
                "address", False, f"{path} is there, and is no socket", "set WSGI_PROM_BIND to another path"
            )
    except FileNotFoundError:
        if not path.parent.is_dir():
            return Finding(
                "address", False, f"{path.parent} is not a directory", "make it, or set WSGI_PROM_BIND"
            )
    except OSError as error:
        return Finding("address", False, f"{path}: {error.strerror}", "set WSGI_PROM_BIND to another path")
    return Finding("address", True, f"{address} is free")


def _protected(settings: Settings) -> bool:
    return bool(settings.token_file or settings.users_file or settings.tls_client_ca or settings.allow)


def _loopback(host: str) -> bool:
    ip = ipaddress.ip_address(host.partition("%")[0])
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
