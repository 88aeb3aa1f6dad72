"""
Files on their way through a measured request: the one that it answers with, and the one that its own body is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from wsgi_prom.headers import content_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Request(Protocol):
    """What is told how a file was read."""

    def file_read(self, chunk: bytes) -> None: ...

    def file_broken(self, error: BaseException) -> None: ...

    def file_closing(self) -> None: ...

    def file_closed(self) -> None: ...


class File:
    """
    A file on its way through the server's file_wrapper: the server's own object, around this.

    Whatever else the server looks for (fileno for sendfile, seek, tell) is the file's.
    """

    def __init__(self, filelike: Any, request: Request) -> None:
        self._filelike = filelike
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filelike, name)

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._filelike:
            self._request.file_read(chunk)
            yield chunk

    def read(self, *size: int) -> bytes:
        try:
            chunk: bytes = self._filelike.read(*size)
        except BaseException as error:
            self._request.file_broken(error)
            raise
        self._request.file_read(chunk)
        return chunk


class ClosableFile(File):
    """A file that has close(): the end of its response."""

    def close(self) -> None:
        self._request.file_closing()
        try:
            self._filelike.close()
        finally:
            self._request.file_closed()


def look_into(result: Any, request: Request) -> bool:
    """Put a file that tells what is done with it in the place of the one in *result*; return whether that can be done."""
    attributes = getattr(result, "__dict__", {})
    # As gunicorn and wsgiref have it, which take the file's close() for their own, and as waitress has it.
    name = next((name for name in ("filelike", "file") if name in attributes), None)
    if name is None or not hasattr(attributes[name], "close"):
        return False
    told = ClosableFile(attributes[name], request)
    setattr(result, name, told)
    if "close" in attributes:
        result.close = told.close
    return True


def file_size(file: Any, headers: Iterable[tuple[str, str]]) -> int:
    """Return how much a server sends of *file* without a read (by sendfile): what *headers* say, or all from where it is."""
    length = content_length(headers)
    if length is not None:
        return length
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return int(max(end - position, 0))


class Input:
    """The body of a request whose length nobody has told: counted as the application reads it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __iter__(self) -> Iterator[bytes]:
        for line in self._source:
            self.size += len(line)
            yield line

    def __next__(self) -> bytes:
        return self._counted(next(self._source))

    def read(self, *size: int) -> bytes:
        return self._counted(self._source.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._counted(self._source.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        lines: list[bytes] = self._source.readlines(*hint)
        self.size += sum(map(len, lines))
        return lines

    def _counted(self, data: bytes) -> bytes:
        self.size += len(data)
        return data
