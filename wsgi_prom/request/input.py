"""
Count the bytes of a request's body that the application reads. (A client may announce more than it sends.)

1. The application gets the values and exceptions of the server's object unchanged.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Methods beyond PEP 3333 that some servers' objects have. The former return the bytes, the latter their number.
_READING: Final = frozenset({"read1", "readall", "recv"})
_FILLING: Final = frozenset({"readinto", "readinto1", "recv_into"})


class Input:
    """
    Wraps a server's `wsgi.input`; `size` is the number of bytes read. Bytes that are read again after a seek count once.

    Used by one thread at a time, as the server's object is. Has all other attributes of the server's object.
    """

    # The number of bodies, 1 or 0, of which `size` does not say how much the application has read.
    unknown = 0

    def __init__(self, source: Any) -> None:
        self._source = source
        self._position = self.size = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._source, name)
        if name in _READING:
            return partial(self._read, attribute)
        if name in _FILLING:
            return partial(self._fill, attribute)
        # waitress and, with post-buffering, uWSGI can seek.
        return partial(self._seek, attribute) if name == "seek" else attribute

    def __iter__(self) -> Iterator[bytes]:
        for line in self._source:
            yield self._counted(line)

    def __next__(self) -> bytes:
        return self._counted(next(self._source))

    def read(self, *size: Any, **keywords: Any) -> bytes:
        return self._counted(self._source.read(*size, **keywords))

    def readline(self, *size: Any, **keywords: Any) -> bytes:
        return self._counted(self._source.readline(*size, **keywords))

    def readlines(self, *hint: Any, **keywords: Any) -> list[bytes]:
        lines: list[bytes] = self._source.readlines(*hint, **keywords)
        for line in lines:
            self._counted(line)
        return lines

    def _read(self, method: Callable[..., bytes], *size: Any, **keywords: Any) -> bytes:
        return self._counted(method(*size, **keywords))

    def _fill(self, method: Callable[..., int | None], *buffer: Any, **keywords: Any) -> int | None:
        size = method(*buffer, **keywords)
        if isinstance(size, int):
            self._advance(size)
        return size

    def _seek(self, method: Callable[..., object], *where: Any, **keywords: Any) -> object:
        returned = method(*where, **keywords)
        with suppress(Exception):  # uWSGI's seek() returns None, so tell() is asked
            self._position = self._source.tell()
        return returned

    def _counted(self, data: bytes) -> bytes:
        if isinstance(data, (bytes, bytearray)):
            self._advance(len(data))
        return data

    def _advance(self, size: int) -> None:
        self._position += size
        self.size = max(self.size, self._position)


# NOTHING: the request has no body. UNKNOWN: the application reads the body by other means, such as uwsgi.chunked_read().
NOTHING: Final = Input(None)
UNKNOWN: Final = Input(None)
UNKNOWN.unknown = 1
