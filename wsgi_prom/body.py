"""
The response of a measured request, where it is not over when the application returns: a body that tells its end.
"""

# Rule 1: not a generator: one that is closed before its first next() never runs its `finally`, so that the request
#         would stay in progress for ever.
# Rule 2: no `__len__` unless the application's iterable has one: servers take the Content-Length of a body of one
#         item from it, and waitress answers 500 when it fails.

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

from wsgi_prom.headers import content_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Request(Protocol):
    """What is told how the body ended. Nothing of it raises; after the first call, later ones do nothing."""

    def passed(self, chunk: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class FileRequest(Protocol):
    """What is told how a file was read."""

    def read(self, chunk: bytes) -> None: ...

    def broken(self, error: BaseException) -> None: ...

    def closing(self) -> None: ...

    def closed(self) -> None: ...


class Body:
    """An iterable around the application's, for one thread and one pass like any WSGI response."""

    __slots__ = ("_iterator", "_request", "_result")

    def __init__(self, result: Iterable[bytes], request: Request) -> None:
        self._result = result
        self._request = request
        self._iterator: Iterator[bytes]

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._iterator = iter(self._result)
        except BaseException as error:
            self._request.fail(error)
            raise
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._iterator)
        except StopIteration:
            # Here and not in close(): a server that ends a response with its last chunk's frame, or by closing the
            # connection, does so after this. A worker that dies then has counted what its client has seen.
            self._request.finish()
            raise
        except BaseException as error:
            self._request.fail(error)
            raise
        self._request.passed(chunk)
        return chunk

    def close(self) -> None:
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            # Nothing any more, unless the end was not reached: then the client has left, or the server stopped early.
            self._request.abort()

    def __del__(self) -> None:
        # A server that does not call close(): cheroot, where start_response was never called.
        self._request.abort()


class SizedBody(Body):
    """A body whose number of items the application's iterable tells."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]


def wrap(result: Any, request: Request) -> Body:
    return SizedBody(result, request) if hasattr(result, "__len__") else Body(result, request)


class File:
    """
    A file on its way through the server's file_wrapper: the server's own object, around this.

    Whatever else the server looks for (fileno for sendfile, seek, tell) is the file's.
    """

    def __init__(self, filelike: Any, request: FileRequest) -> None:
        self._filelike = filelike
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filelike, name)

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._filelike:
            self._request.read(chunk)
            yield chunk

    def read(self, *size: int) -> bytes:
        try:
            chunk: bytes = self._filelike.read(*size)
        except BaseException as error:
            self._request.broken(error)
            raise
        self._request.read(chunk)
        return chunk


class ClosableFile(File):
    """A file that has close(): the end of its response."""

    def close(self) -> None:
        self._request.closing()
        try:
            self._filelike.close()
        finally:
            self._request.closed()


def look_into(result: Any, request: FileRequest) -> bool:
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
