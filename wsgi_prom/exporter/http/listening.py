"""The socket that the exporter listens on: TCP or unix, and the latter's path, which is removed at the end."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from wsgi_prom.settings import Address

_BACKLOG: Final = 1024


class AddressInUseError(WsgiPromError):
    """The exporter cannot listen where it was told to."""


class Listening:
    """
    A socket that listens on *address*, with *mode* if that is the path of one.

    Raises AddressInUseError. Of the processes that share it after a fork, each may close it.
    """

    def __init__(self, address: Address, mode: int = 0o600) -> None:
        try:
            self.socket = _bind_path(address.path, mode) if address.path else _bind_host(address)
        except (OSError, UnicodeError) as error:  # the latter for a host with an empty or too long label
            why = getattr(error, "strerror", None) or error
            raise AddressInUseError(
                f"cannot listen on WSGI_PROM_BIND={str(address)!r}: {why}. Set it to another address, or to off."
            ) from error
        self._path = address.path
        self._bound = os.lstat(address.path) if address.path else None

    def url(self, scheme: str = "http") -> str:
        """Return the URL of the metrics, with the port that the system chose if it was asked to."""
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{self._path}"
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}/metrics" if ":" in host else f"{scheme}://{host}:{port}/metrics"

    def close(self) -> None:
        """Take no more connections in this process, and leave no path behind that leads to nobody. Never raises."""
        with suppress(OSError):
            # What another exporter has bound meanwhile is that one's.
            if self._bound is not None and os.path.samestat(self._bound, os.lstat(self._path)):
                os.unlink(self._path)  # noqa: PTH108 - beside its lstat
        self.socket.close()


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


def _bind_path(path: str, mode: int) -> socket.socket:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # EAGAIN: its backlog is full
        found = probe.connect_ex(path)
    if found in {0, errno.EAGAIN}:
        raise OSError(errno.EADDRINUSE, "in use by another process")
    if found not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise OSError(found, os.strerror(found))
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - of a server that is gone
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Made with the mode that it has later: no moment in which others could connect.
        before = os.umask(0o777 & ~mode)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
