"""Files, by the server's file_wrapper and without."""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

from .case import (
    BODY,
    CHUNKS,
    LENGTH,
    TYPE,
    case,
    failure,
    note,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIEnvironment


class NotedFile:
    """
    A file whose close() is noted, each call of it, and nothing else: io's own close themselves when they are collected.
    """

    def __init__(self, environ: WSGIEnvironment, source: Any) -> None:
        self._environ = environ
        self._source = source

    def read(self, size: int = -1) -> bytes:
        return self._source.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def fileno(self) -> int:
        return self._source.fileno()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._source)

    def close(self) -> None:
        note(self._environ, "close")
        self._source.close()


def real_file(environ: WSGIEnvironment, content: bytes) -> NotedFile:
    return NotedFile(environ, temporary_file(content))


def file_in_memory(environ: WSGIEnvironment, content: bytes) -> NotedFile:
    return NotedFile(environ, io.BytesIO(content))


def temporary_file(content: bytes) -> Any:
    found = tempfile.TemporaryFile()  # noqa: SIM115 - whoever is given it closes it
    found.write(content)
    found.seek(0)
    return found


def wrap_file(environ: WSGIEnvironment, filelike: Any, *block_size: int) -> Any:
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:  # cheroot has none
        return FileWrapper(filelike, *block_size)
    return wrapper(filelike, *block_size)


@case(closed=1)
def file_real(environ, start_response):
    start_response("200 OK", [TYPE])
    return wrap_file(environ, real_file(environ, BODY))


@case(closed=1)
def file_real_length(environ, start_response):
    start_response("200 OK", [TYPE, LENGTH])
    return wrap_file(environ, real_file(environ, BODY), 4)


@case(closed=1)
def file_part(environ, start_response):
    # From the middle, and not to the end.
    start_response("206 Partial Content", [TYPE, ("Content-Length", "4"), ("Content-Range", "bytes 4-7/23")])
    filelike = real_file(environ, BODY)
    filelike.seek(4)
    return wrap_file(environ, filelike)


@case(closed=1)
def file_empty(environ, start_response):
    start_response("200 OK", [TYPE])
    return wrap_file(environ, real_file(environ, b""))


@case()
def file_opened(environ, start_response):
    # What open() returns, itself.
    start_response("200 OK", [TYPE, LENGTH])
    return wrap_file(environ, temporary_file(BODY))


@case()
def file_of_bytes(environ, start_response):
    start_response("200 OK", [TYPE])
    return wrap_file(environ, io.BytesIO(BODY))


@case(closed=1)
def file_bytesio(environ, start_response):
    start_response("200 OK", [TYPE])
    return wrap_file(environ, file_in_memory(environ, BODY))


@case(closed=1)
def file_bytesio_length(environ, start_response):
    start_response("200 OK", [TYPE, LENGTH])
    return wrap_file(environ, file_in_memory(environ, BODY), 4)


@case()
def file_without_close(environ, start_response):
    class Readable:
        def __init__(self) -> None:
            self._source = io.BytesIO(BODY)

        def read(self, size: int = -1) -> bytes:
            return self._source.read(size)

    class Iterated:
        def __iter__(self) -> Iterator[bytes]:
            return iter([BODY])

    start_response("200 OK", [TYPE])
    if "wsgi.file_wrapper" not in environ:
        return Iterated()
    return environ["wsgi.file_wrapper"](Readable())


@case(closed=1)
def file_unwrapped(environ, start_response):
    # A file is an iterable of its lines.
    start_response("200 OK", [TYPE])
    return real_file(environ, b"".join(CHUNKS))


@case(closed=1)
def file_wrapped_in_a_generator(environ, start_response):
    start_response("200 OK", [TYPE])
    wrapped = wrap_file(environ, file_in_memory(environ, BODY))

    def lines() -> Iterator[bytes]:
        try:
            yield from wrapped
        finally:
            if hasattr(wrapped, "close"):
                wrapped.close()

    return lines()


@case()
def file_wrapped_and_not_returned(environ, start_response):
    start_response("200 OK", [TYPE])
    wrap_file(environ, io.BytesIO(b"not this"))
    return [BODY]


@case()
def file_yielded(environ, start_response):
    # uWSGI sends a wrapped file also as a chunk; elsewhere it is a mistake.
    start_response("200 OK", [TYPE])
    yield wrap_file(environ, temporary_file(BODY))


@case()
def file_by_keyword(environ, start_response):
    # The name of the second parameter is gunicorn's and wsgiref's; the PEP has it by position.
    start_response("200 OK", [TYPE])
    filelike = io.BytesIO(BODY)
    if "wsgi.file_wrapper" not in environ:
        return filelike
    return environ["wsgi.file_wrapper"](filelike, blksize=4)


@case()
def file_told_by_its_class(environ, start_response):
    # A middleware of the application's that hands on what the server wrapped, and tells it as the server itself does.
    wrapped = wrap_file(environ, io.BytesIO(BODY))
    start_response("200 OK", [TYPE])
    if isinstance(wrapped, environ.get("wsgi.file_wrapper", ())):
        return wrapped
    return [b"not what the server wrapped\n"]


@case()
def file_told_by_its_attribute(environ, start_response):
    # The wrapper's own attribute for it, where it has one.
    filelike = io.BytesIO(BODY)
    wrapped = wrap_file(environ, filelike)
    inner = getattr(wrapped, "filelike", getattr(wrapped, "file", None))
    start_response("200 OK", [TYPE])
    return [f"{inner is filelike} {type(inner).__name__}\n".encode()]


@case(closed=1)
def file_wrapper_replaced(environ, start_response):
    # gunicorn looks in environ for the class that tells a file.
    class Wrapper:
        def __init__(self, filelike: Any, _block_size: int = 8192) -> None:
            self.filelike = filelike
            self.close = filelike.close

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"replaced: ", self.filelike.read()])

    environ["wsgi.file_wrapper"] = Wrapper
    start_response("200 OK", [TYPE])
    return wrap_file(environ, file_in_memory(environ, BODY))


@case()
def file_wrapper_removed(environ, start_response):
    # gunicorn answers 500: it looks there.
    environ.pop("wsgi.file_wrapper", None)
    start_response("200 OK", [TYPE])
    return [BODY]


@case(closed=2)
def file_wrapped_twice(environ, start_response):
    # uWSGI sends what was wrapped last by sendfile, and the other by iteration.
    start_response("200 OK", [TYPE])
    first = wrap_file(environ, file_in_memory(environ, BODY))
    second = wrap_file(environ, file_in_memory(environ, b"not this"))
    if hasattr(second, "close"):
        second.close()
    return first


@case(closed=1)
def file_read_fails(environ, start_response):
    class Unreadable(NotedFile):
        def read(self, _size: int = -1) -> bytes:
            raise failure(environ)

    start_response("200 OK", [TYPE])
    return wrap_file(environ, Unreadable(environ, io.BytesIO(BODY)))


@case(closed=1)
def file_close_fails(environ, start_response):
    class Unclosable(NotedFile):
        def close(self) -> None:
            super().close()
            raise failure(environ)

    start_response("200 OK", [TYPE, LENGTH])
    return wrap_file(environ, Unclosable(environ, io.BytesIO(BODY)))


@case(closed=1)
def file_of_a_generator(environ, start_response):
    # Something that reads, and has neither a descriptor nor a position.
    class Reader:
        def __init__(self) -> None:
            self._chunks = iter(CHUNKS)

        def read(self, _size: int = -1) -> bytes:
            return next(self._chunks, b"")

        def close(self) -> None:
            note(environ, "close")

    start_response("200 OK", [TYPE])
    # With a block size. uWSGI has none for a call without one, and reads with what lies on its stack (2.0.31,
    # plugins/python/wsgi_handlers.c, py_uwsgi_sendfile: `int chunk_size;`): 32517, the upper half of an address, or 0,
    # with which it reads once and drops the rest (wsgi_subhandler.c, uwsgi_python_consume_file_wrapper_read).
    return wrap_file(environ, Reader(), 8192)


@case()
def file_wrapper_without_arguments(environ, start_response):
    if "wsgi.file_wrapper" in environ:
        environ["wsgi.file_wrapper"]()
    start_response("200 OK", [TYPE])
    return [BODY]
