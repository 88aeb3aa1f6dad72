"""
The file that a request is answered with, on its way through the server's file_wrapper.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from wsgi_prom.request.headers import content_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class FileResponse:
    """The part of a measured request for a response that is a file."""

    __slots__ = ()

    if TYPE_CHECKING:
        file: Any
        headers: Any
        recorder: ClassVar[Any]
        method: str
        sent: int

        def passed(self, chunk: Any) -> None: ...
        def fail(self, error: BaseException) -> None: ...
        def leave(self) -> None: ...

    def takes_file(self, result: Any) -> None:
        """Measure *result*, of the server's file_wrapper. It is counted when its file is closed; now, if that cannot be seen."""
        own = isinstance(result, File)
        self.file = result if own else getattr(result, "filelike", getattr(result, "file", None))
        if not look_into(result, self):
            self.file_closing(read=False)
            self.leave()

    def file_read(self, chunk: bytes) -> None:
        """Count what the server has read of the file that is the response."""
        self.passed(chunk)

    def file_closing(self, *, read: bool) -> None:
        """Take the size of a file that the server sent without reading it (by sendfile) if it was not *read*."""
        if not read and not self.sent:
            try:
                self.sent = file_size(self.file, self.headers)  # type: ignore[misc]  # a slot of its class
            except Exception:
                self.recorder.fail("body")

    def file_broken(self, error: BaseException) -> None:
        """Count the request as one whose file could not be read."""
        self.fail(error)

    def file_closed(self) -> None:
        """Count the request as answered with the file that was closed."""
        self.leave()


class File:
    """
    A file on its way through the server's file_wrapper: the server's own object, around this.

    Whatever else the server looks for (fileno for sendfile, seek, tell) is the file's. No request is told of it until
    `answer`: an application may read what it has wrapped itself.
    """

    _request: FileResponse | None = None
    _read = False

    def __init__(self, filelike: Any) -> None:
        self._filelike = filelike

    def answer(self, request: FileResponse) -> None:
        """Tell *request*, whose response the file is, from now on."""
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filelike, name)

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._filelike:
            self._tell(chunk)
            yield chunk

    def read(self, *size: int) -> bytes:
        try:
            chunk: bytes = self._filelike.read(*size)
        except BaseException as error:
            if self._request is not None:
                self._request.file_broken(error)
            raise
        self._tell(chunk)
        return chunk

    def close(self) -> None:
        """Close the file, if it can be (PEP 3333 leaves that open): the end of its response."""
        request = self._request
        if request is not None:
            request.file_closing(read=self._read)
        try:
            if hasattr(self._filelike, "close"):
                self._filelike.close()
        finally:
            if request is not None:
                request.file_closed()

    def _tell(self, chunk: bytes) -> None:
        if self._request is not None:
            self._read = True
            self._request.file_read(chunk)


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


def look_into(result: Any, request: FileResponse) -> bool:
    """Make the file in *result*, the server's own object, report to *request*. Returns False if there is none to be found."""
    if isinstance(result, File):
        result.answer(request)
        return True
    attributes = getattr(result, "__dict__", {})
    # As gunicorn and wsgiref have it, which take the file's close() for their own, and as waitress has it.
    name = next((name for name in ("filelike", "file") if name in attributes), None)
    if name is None:
        return False
    told = File(attributes[name])
    told.answer(request)
    setattr(result, name, told)
    if "close" in attributes or not hasattr(result, "close"):
        result.close = told.close
    return True


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
