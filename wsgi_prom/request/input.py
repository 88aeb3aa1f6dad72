"""
The body of a request, counted as the application reads it: the length that a client announces says nothing of what it sends.
"""

# Rule: what the server's object returns or raises is returned or raised unchanged, whatever it is.

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Methods beyond PEP 3333 that some servers' objects have: those that return what was read, and those that return how much.
_READING: Final = frozenset({"read1", "readall", "recv"})
_FILLING: Final = frozenset({"readinto", "readinto1", "recv_into"})


class Input:
    """
    A server's `wsgi.input`, which counts the bytes that pass in `size`: those that are read again after a seek, once.

    For one thread at a time, like the server's. Whatever else the server's object has is found here too.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._position = self.size = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._source, name)
        if name in _READING:
            return partial(self._read, found)
        if name in _FILLING:
            return partial(self._fill, found)
        # waitress' and, with post-buffering, uWSGI's can be read again.
        return partial(self._seek, found) if name == "seek" else found

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
        with suppress(Exception):  # uWSGI's seek() returns None: only tell() says where it is now
            self._position = self._source.tell()
        return returned

    def _counted(self, data: bytes) -> bytes:
        if isinstance(data, bytes | bytearray):
            self._advance(len(data))
        return data

    def _advance(self, size: int) -> None:
        self._position += size
        self.size = max(self.size, self._position)


# The input of a request that announces no body.
NO_BODY: Final = Input(None)
