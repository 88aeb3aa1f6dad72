"""The exporter's end of the network: the socket that it listens on, and the server that answers there."""

from __future__ import annotations

import logging
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from waitress.server import create_server

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from wsgi_prom.exporter.app import ExporterApp
    from wsgi_prom.settings import Address

# A scrape is a short request without a body, by one or two clients. Waitress reads in one loop and keeps slow
# clients in buffers, so that two threads suffice.
_LIMITS: Final[dict[str, Any]] = {
    "threads": 2,
    "channel_timeout": 10,
    "cleanup_interval": 5,
    "max_request_header_size": 16384,
    "max_request_body_size": 16384,
    "ident": None,
}


_BACKLOG: Final = 1024


class AddressInUseError(WsgiPromError):
    """The exporter cannot listen where it was told to."""


def bind(address: Address) -> socket.socket:
    """
    Return a socket that listens on *address*, with mode 0600 if that is the path of one.

    Raises AddressInUseError.
    """
    try:
        return _bind_path(address.path) if address.path else _bind_host(address)
    except OSError as error:
        raise AddressInUseError(
            f"no exporter: cannot listen on WSGI_PROM_BIND={str(address)!r}: {error.strerror or error}. The "
            "application is served without. Set WSGI_PROM_BIND to an address of this server's own, or to off."
        ) from error


def url(listening: socket.socket) -> str:
    """Return the URL of the metrics, with the port that the system chose if it was asked to."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"


def server(app: ExporterApp, listening: socket.socket) -> Any:
    """Return a server of *app*, with `run` and `close`."""
    logging.getLogger("waitress").setLevel(logging.ERROR)
    return create_server(app, sockets=[listening], **_LIMITS)


def _bind_host(address: Address) -> socket.socket:
    family, kind, protocol, _, name = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(name)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _bind_path(path: str) -> socket.socket:
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(f"{path} is answered by another process")
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - of a server that is gone
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Made with the mode that it has later: no moment in which others could connect.
        before = os.umask(0o177)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
