"""Answers that are longer than one likes to wait for, and those that are more than the client waits for."""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Final

from .case import (
    CHUNKS,
    TYPE,
    Closing,
    ClosingList,
    note,
    noting,
)
from .files import NotedFile, wrap_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIApplication


# More than the buffers of both ends of a connection hold: whoever goes away in the middle is noticed.
BIG_CHUNK: Final = b"x" * 65536
BIG_COUNT: Final = 512

STREAM_SECONDS: Final = 0.6


def stream(_environ, start_response):
    def slowly() -> Iterator[bytes]:
        for chunk in CHUNKS:
            time.sleep(STREAM_SECONDS / len(CHUNKS))
            yield chunk

    start_response("200 OK", [TYPE])
    return slowly()


def big_generator(environ, start_response):
    start_response("200 OK", [TYPE])
    return noting(environ, (BIG_CHUNK for _ in range(BIG_COUNT)))


def big_iterator(environ, start_response):
    start_response("200 OK", [TYPE, ("Content-Length", str(BIG_COUNT * len(BIG_CHUNK)))])
    return Closing(environ, (BIG_CHUNK for _ in range(BIG_COUNT)))


def big_list(environ, start_response):
    start_response("200 OK", [TYPE])
    result = ClosingList([BIG_CHUNK] * BIG_COUNT)
    result.environ = environ
    return result


def big_write(environ, start_response):
    write = start_response("200 OK", [TYPE])
    try:
        for _ in range(BIG_COUNT):
            write(BIG_CHUNK)
    finally:
        note(environ, "close")
    return []


def big_file(environ, start_response):
    filelike = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    filelike.truncate(BIG_COUNT * len(BIG_CHUNK))
    start_response("200 OK", [TYPE, ("Content-Length", str(BIG_COUNT * len(BIG_CHUNK)))])
    return wrap_file(environ, NotedFile(environ, filelike))


BIG: Final[dict[str, WSGIApplication]] = {
    "big_generator": big_generator,
    "big_iterator": big_iterator,
    "big_list": big_list,
    "big_write": big_write,
    "big_file": big_file,
}
# Not among CASES, which are read to the end.
OTHERS: Final = {"stream": stream, **BIG}
