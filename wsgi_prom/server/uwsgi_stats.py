"""
Read uWSGI's stats server: where it listens, and the JSON that it sends to whoever connects.

1. The master itself answers, and waits up to 4 s for a client that does not send its HTTP request or does not read
   (socket-timeout; core/stats.c): requests are sent at once, and answers are read at once.
2. The answer holds the variables of requests in progress. Only `uwsgi_families.families` looks into it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# A core takes 250 bytes and the variables of its request: 8 workers of 1,000 greenlets send 2 MB while they are idle.
MOST_BYTES: Final = 32 * 1024 * 1024

_HTTP: Final = "http://"
_UNIX: Final = "unix:"


def address(options: Mapping[Any, Any]) -> str | None:
    """
    Return where the stats server of a uWSGI with *options* (`uwsgi.opt`) listens, None without one.

    `HOST:PORT`, `unix:PATH`, or `unix:@NAME` for an abstract socket; with `http://` in front under stats-http. Call it
    in the master: a relative path is relative to its working directory.
    """
    known = {_text(name): value for name, value in options.items()}
    given = [value for name in known if name in {"stats", "stats-server"} for value in _values(known[name])]
    # uWSGI keeps the last one.
    bound = _text(given[-1]) if given else ""
    if not bound:
        return None
    reached = _tcp(bound) if ":" in bound else _unix(bound, abstract=_is_on(known.get("abstract-socket")))
    return _HTTP + reached if reached and _is_on(known.get("stats-http")) else reached


def binds_abstract(options: Mapping[Any, Any]) -> bool:
    """
    Return whether a uWSGI with *options* makes an abstract socket of each path, which every user of the host can connect to.
    """
    return any(_is_on(value) for name, value in options.items() if _text(name) == "abstract-socket")


def _values(value: Any) -> list[Any]:
    """Return all values of an option: uWSGI makes a list of one that was given several times, and True of no value."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, bytes | str)]


def _text(value: bytes | str) -> str:
    return os.fsdecode(value)


def _is_on(value: Any) -> bool:
    if isinstance(value, list):
        value = value[-1]
    if isinstance(value, bytes | str):
        # As uwsgi_opt_true of core/uwsgi.c reads it.
        return _text(value).lower() not in {"false", "off", "no", "0"}
    return bool(value)


def _tcp(bound: str) -> str | None:
    host, _, port = bound.rpartition(":")
    if not port.isdecimal() or int(port) == 0:
        return None  # port 0 is one that the system chose
    if host.startswith("["):
        return f"[::1]:{port}" if host == "[::]" else bound
    try:
        # uWSGI resolves a name when it binds. Resolved now, it costs no scrape an unbounded wait for a name server.
        numeric = socket.gethostbyname(host)
    except OSError:
        return None
    return f"{'127.0.0.1' if ip_address(numeric).is_unspecified else numeric}:{port}"


def _unix(bound: str, *, abstract: bool) -> str:
    if bound.startswith("@"):
        return _UNIX + bound
    if bound.startswith("\\0"):
        return f"{_UNIX}@{bound[2:]}"
    return f"{_UNIX}@{bound}" if abstract else _UNIX + str(Path(bound).absolute())


def read(address: str, timeout: float) -> dict[str, Any]:
    """
    Return what the stats server at *address* (see `address`) sends, within *timeout* seconds.

    Raises OSError if it cannot be reached or is too slow, ValueError if it sends no JSON object or more than MOST_BYTES.
    """
    deadline = time.monotonic() + timeout
    with _connected(address.removeprefix(_HTTP), deadline) as connection:
        if address.startswith(_HTTP):
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = _received(connection, deadline)
    if answer.startswith(b"HTTP/"):
        answer = answer.partition(b"\r\n\r\n")[2]
    # uWSGI passes control characters and bytes that are no UTF-8 on as they are (escape_json of core/utils.c).
    text = answer.decode(errors="replace").lstrip()
    if not text.startswith("{"):
        raise ValueError(f"the stats server {address} sent no JSON object")
    try:
        stats: dict[str, Any] = json.loads(text, strict=False)
    except RecursionError:
        raise ValueError(f"the stats server {address} sent JSON that is nested too deep") from None
    return stats


def _connected(where: str, deadline: float) -> socket.socket:
    if not where.startswith(_UNIX):
        host, _, port = where.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=_left(deadline))
    path = where.removeprefix(_UNIX)
    if not path.startswith("@"):
        return _connected_unix(path, deadline)
    try:
        # uWSGI 2.0.31 counts the @ in the length of the address, so that the name ends in a zero byte (ss shows @NAME@) ...
        return _connected_unix(f"\0{path[1:]}\0", deadline)
    except ConnectionRefusedError:
        # ... but not under abstract-socket.
        return _connected_unix(f"\0{path[1:]}", deadline)


def _connected_unix(path: str, deadline: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_left(deadline))
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _received(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while True:
        # A limit for the whole, not for each piece.
        connection.settimeout(_left(deadline))
        piece = connection.recv(262144)
        if not piece:
            return bytes(received)
        received += piece
        if len(received) > MOST_BYTES:
            raise ValueError(f"the stats server sent more than {MOST_BYTES} bytes")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "the stats server took too long")
    return left
