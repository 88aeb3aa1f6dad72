"""Exceptions: before, between and after the chunks of a body, and in close()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .case import (
    CHUNKS,
    CHUNKS_LENGTH,
    TYPE,
    Closing,
    case,
    failure,
    note,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@case()
def raise_before(environ, _start_response):
    raise failure(environ)


@case()
def raise_after_start(environ, start_response):
    start_response("200 OK", [TYPE])
    raise failure(environ)


@case()
def raise_chained(environ, _start_response):
    try:
        int("the cause")
    except ValueError as error:
        raise failure(environ) from error


@case()
def raise_stop_iteration(environ, start_response):
    start_response("200 OK", [TYPE])
    raise StopIteration


@case()
def raise_in_iter(environ, start_response):
    class Uniterable:
        def __iter__(self) -> Iterator[bytes]:
            raise failure(environ)

    start_response("200 OK", [TYPE])
    return Uniterable()


@case(closed=1)
def raise_first(environ, start_response):
    start_response("200 OK", [TYPE])
    return failing(environ, [])


@case(closed=1)
def raise_between(environ, start_response):
    start_response("200 OK", [TYPE])
    return failing(environ, CHUNKS[:2])


@case(closed=1)
def raise_between_length(environ, start_response):
    start_response("200 OK", [TYPE, CHUNKS_LENGTH])
    return failing(environ, CHUNKS[:2])


@case(closed=1)
def raise_after(environ, start_response):
    start_response("200 OK", [TYPE, CHUNKS_LENGTH])
    return failing(environ, CHUNKS)


@case(closed=1)
def raise_from_iterator(environ, start_response):
    # Not a generator: it can be asked for more after it raised, and has a close() of its own.
    class Failing(Closing):
        def __next__(self) -> bytes:
            try:
                return super().__next__()
            except StopIteration:
                raise failure(environ) from None

    start_response("200 OK", [TYPE])
    return Failing(environ, CHUNKS[:1])


def failing(environ, chunks):
    try:
        yield from chunks
        raise failure(environ)
    finally:
        note(environ, "close")


class RaisingClose(Closing):
    """An iterator whose close() raises."""

    def close(self) -> None:
        super().close()
        raise failure(self._environ, "asked to fail in close()")


@case(closed=1)
def raise_in_close(environ, start_response):
    start_response("200 OK", [TYPE])
    return RaisingClose(environ)


@case(closed=1)
def raise_in_close_length(environ, start_response):
    start_response("200 OK", [TYPE, CHUNKS_LENGTH])
    return RaisingClose(environ)


@case(closed=1)
def raise_between_and_in_close(environ, start_response):
    class Twice(RaisingClose):
        def __next__(self) -> bytes:
            raise failure(environ)

    start_response("200 OK", [TYPE])
    return Twice(environ)
