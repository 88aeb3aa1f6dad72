"""The socket that the exporter listens on: a host and port, or the path of a unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from wsgi_prom.setting_values import Address

_BACKLOG: Final = 1024


class AddressInUseError(WsgiPromError):
    """The exporter cannot listen where it was told to."""


class Listening:
    """
    A socket that listens on *address*, with *mode* if that is a path; *inherited* is its descriptor if it does so already.

    Raises AddressInUseError. Each of the processes that share it after a fork may close it.
    """

    def __init__(self, address: Address, mode: int = 0o600, *, inherited: int | None = None) -> None:
        try:
            if inherited is not None:
                self.socket = socket.socket(fileno=inherited)
                self.socket.set_inheritable(False)
            else:
                self.socket = _bind(address, mode)
        except (OSError, UnicodeError) as error:  # UnicodeError: a host with an empty or too long label
            why = getattr(error, "strerror", None) or error
            no_folder = address.path and isinstance(error, FileNotFoundError)
            remedy = "Make the directory of the socket, or set it" if no_folder else "Set it"
            raise AddressInUseError(
                f"cannot listen on WSGI_PROM_BIND={str(address)!r}: {why}. {remedy} to another address, or to off."
            ) from error
        self._path = Path(address.path)
        self._bound = None
        with suppress(FileNotFoundError):  # somebody has removed the path since it was bound
            self._bound = self._path.lstat() if address.path else None

    def url(self, scheme: str) -> str:
        """Return the URL of the metrics, with the port that the system chose for port 0."""
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{self._path}"
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}/metrics" if ":" in host else f"{scheme}://{host}:{port}/metrics"

    def close(self) -> None:
        """Close the socket in this process, and remove its path. Never raises."""
        with suppress(OSError):
            # Another exporter may have bound the path meanwhile.
            if self._bound is not None and os.path.samestat(self._bound, self._path.lstat()):
                self._path.unlink()
        # Another socket may have the same inode once this one is closed.
        self._bound = None
        self.socket.close()


def _bind(address: Address, mode: int) -> socket.socket:
    name: object
    if address.path:
        name = address.path
        _remove_abandoned(name)
        listening = socket.socket(socket.AF_UNIX)
    else:
        family, kind, protocol, _, name = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if address.path:
            # The path is made with its final mode: no other user can connect before a chmod. Only for a path: with one target per
            # worker this runs in a thread beside the application, which may make files meanwhile.
            before = os.umask(0o777 & ~mode)
            try:
                listening.bind(name)
            finally:
                os.umask(before)
        else:
            listening.bind(name)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def answers(path: str) -> bool:
    """Return whether a process listens on the unix socket *path*. Raises OSError if *path* cannot be a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # its backlog is full
            return True
    return True


def _remove_abandoned(path: str) -> None:
    """Remove the socket at *path* if no process listens on it. Raises OSError if *path* cannot be bound."""
    if answers(path):
        raise OSError(errno.EADDRINUSE, "in use by another process")
    # Any other file stays, and the bind fails.
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            Path(path).unlink()
