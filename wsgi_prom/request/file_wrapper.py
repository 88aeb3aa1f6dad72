"""
Files on their way through the server's file_wrapper: how much of one is sent, and when its response is over.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from wsgi_prom.request.headers import content_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wsgi_prom.request.request import MeasuredRequest


class File:
    """
    A file on its way through the server's file_wrapper: the server's own object, around this.

    Whatever else the server looks for (fileno for sendfile, seek, tell) is the file's. No request is told of it until
    `answer`: an application may read what it has wrapped itself.
    """

    _request: MeasuredRequest | None = None
    _read = False

    def __init__(self, filelike: Any) -> None:
        self._filelike = filelike

    def answer(self, request: MeasuredRequest) -> None:
        """Measure *request*, whose response the file is, from now on."""
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filelike, name)

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._filelike:
            self._count_chunk(chunk)
            yield chunk

    def read(self, *size: int) -> bytes:
        try:
            chunk: bytes = self._filelike.read(*size)
        except BaseException as error:
            if self._request is not None:
                self._request.fail(error)
            raise
        self._count_chunk(chunk)
        return chunk

    def close(self) -> None:
        """Close the file, if it can be (PEP 3333 leaves that open): the end of its response."""
        request = self._request
        if request is not None and not self._read:
            _take_size(request, self._filelike)
        try:
            if hasattr(self._filelike, "close"):
                self._filelike.close()
        finally:
            if request is not None:
                request.record(b"")

    def _count_chunk(self, chunk: bytes) -> None:
        if self._request is not None:
            self._read = True
            self._request.count_chunk(chunk)


class Wrapper:
    """
    Acts as *function*, a server's file_wrapper that hands back the very file that it was given (uWSGI's).

    The file that it is given tells what is done with it. Thread and fork safe.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __call__(self, *arguments: Any, **keywords: Any) -> object:
        if arguments:
            arguments = (File(arguments[0]), *arguments[1:])
        return self.function(*arguments, **keywords)


def measure_file(request: MeasuredRequest, result: Any) -> None:
    """Count *request* when the file in *result*, the server's own object, is closed; now, if that cannot be seen."""
    request.more_extras().is_file = True
    if isinstance(result, File):
        result.answer(request)
        return
    attributes = getattr(result, "__dict__", {})
    # As gunicorn and wsgiref have it, which take the file's close() for their own, and as waitress has it.
    name = next((name for name in ("filelike", "file") if name in attributes), None)
    if name is None:
        _take_size(request, getattr(result, "filelike", getattr(result, "file", None)))
        request.record(b"")
        return
    file = File(attributes[name])
    file.answer(request)
    setattr(result, name, file)
    if "close" in attributes or not hasattr(result, "close"):
        result.close = file.close


def _take_size(request: MeasuredRequest, file: Any) -> None:
    """Take the size of a *file* that the server has sent without reading it (by sendfile)."""
    if not request.sent:
        try:
            request.sent = file_size(file, request.headers)
        except Exception:
            request.recorder.report_failure("body")


def file_size(file: Any, headers: Iterable[tuple[str, str]]) -> int:
    """Return how much a server sends of *file* without a read (by sendfile): what *headers* say, or all from where it is."""
    length = content_length(headers)
    if length is not None:
        return length
    try:
        position = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(position)
    except (AttributeError, TypeError):  # no more than a descriptor, as PEP 3333 has it
        fd = file.fileno()
        position, end = os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size
    return int(max(end - position, 0))
