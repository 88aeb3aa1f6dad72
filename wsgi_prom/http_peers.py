"""
Peers over HTTP: their answers end, and which of them are this machine.

By an `Answer` the timeout is for a whole answer, not for each of its bytes, and its size is bounded.
http.client, urllib3 and requests have no such limits: a peer that sends a byte now and then, or does not stop, would keep a thread for
ever. What is compressed, which nobody asks for, is not unpacked.

tests/test_http_peers.py names what this relies on in http.client and urllib3.
"""

from __future__ import annotations

import io
import time
from functools import cache
from http.client import HTTPResponse
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer

# More than the targets of ten thousand workers. What a receiver of metrics answers is a few lines.
_MOST_BYTES: Final = 16 * 1024 * 1024
_TOO_LONG: Final = f"the answer is longer than {_MOST_BYTES} bytes"


def is_loopback(host: str) -> bool:
    """Return whether *host*, a name or an IP address, is this machine, without asking a resolver."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@cache
def pool_classes() -> dict[str, Any]:
    """Return what the `pool_classes_by_scheme` of a PoolManager has to be. Raises ImportError without urllib3, an extra."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Http(HTTPConnection):
        response_class = Answer

    class Https(HTTPSConnection):
        response_class = Answer

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = Https

    return {"http": HttpPool, "https": HttpsPool}


class Answer(HTTPResponse):
    """The `response_class` of a connection of http.client or urllib3. Its `read` raises TimeoutError, and OSError if it is too long."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(cast("socket.socket", _Readable(sock)), *arguments, **options)

    def begin(self) -> None:
        super().begin()
        del self.headers["Content-Encoding"]


class _Readable(NamedTuple):
    """All that a response wants of its *socket*."""

    socket: socket.socket

    def makefile(self, _: str) -> io.BufferedReader:
        return _File(_Bounded(self.socket.makefile("rb", 0), self.socket))


class _File(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        # Of a length that a peer says BufferedReader takes the memory at once, whatever comes.
        if size and size > _MOST_BYTES:
            raise OSError(_TOO_LONG)
        return super().read(size)


class _Bounded(io.RawIOBase):
    """What *raw* reads of *sock*, within the timeout that *sock* has now."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._bytes_left = _MOST_BYTES
        seconds = sock.gettimeout()
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer takes too long")
            self._sock.settimeout(left)
        number: int | None = self._raw.readinto(buffer)
        self._bytes_left -= number or 0
        if self._bytes_left < 0:
            raise OSError(_TOO_LONG)
        return number

    def close(self) -> None:
        self._raw.close()
        super().close()
