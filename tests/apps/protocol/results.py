"""What an application returns: complete results, and iterables of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .case import (
    BODY,
    CASES,
    CHUNKS,
    CHUNKS_LENGTH,
    LENGTH,
    TYPE,
    Case,
    Chunks,
    Closing,
    ClosingList,
    Sized,
    case,
    complete,
    failure,
    note,
    noting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


for _name, _result in {
    "list_one": [BODY],
    "list_many": [*CHUNKS],
    "list_empty": [],
    "list_of_empty": [b""],
    "list_with_empty": [b"", BODY, b""],
    "tuple_one": (BODY,),
    "tuple_many": CHUNKS,
    "tuple_empty": (),
    "bytes_result": BODY,
    "bytes_empty": b"",
    "bytearray_chunk": [bytearray(BODY)],
    # Mistakes: what a server makes of them is its own.
    "none_result": None,
    "number_result": 7,
    "str_result": "text",
    "str_chunk": ["text"],
    "none_chunk": [None],
}.items():
    CASES[_name] = Case(complete(_result))
CASES["list_one_length"] = Case(complete([BODY], LENGTH))
CASES["list_many_length"] = Case(complete([*CHUNKS], CHUNKS_LENGTH))
CASES["tuple_one_length"] = Case(complete((BODY,), LENGTH))
CASES["bytes_length"] = Case(complete(BODY, LENGTH))
CASES["empty_length"] = Case(complete([], ("Content-Length", "0")))
CASES["length_too_long"] = Case(complete([BODY], ("Content-Length", "30")), short=True)
CASES["length_too_short"] = Case(complete([BODY], ("Content-Length", "5")))
CASES["length_no_number"] = Case(complete([BODY], ("Content-Length", "many")))
CASES["length_negative"] = Case(complete([BODY], ("Content-Length", "-1")), short=True)


@case(closed=1)
def list_subclass(environ, start_response):
    start_response("200 OK", [TYPE])
    result = ClosingList([BODY])
    result.environ = environ
    return result


@case(closed=1)
def generator(environ, start_response):
    return chunks_of(environ, start_response, CHUNKS)


@case(closed=1)
def generator_one(environ, start_response):
    return chunks_of(environ, start_response, [BODY])


@case(closed=1)
def generator_length(environ, start_response):
    return chunks_of(environ, start_response, CHUNKS, CHUNKS_LENGTH)


@case(closed=1)
def generator_empty(environ, start_response):
    return chunks_of(environ, start_response, [])


@case(closed=1)
def generator_with_empty(environ, start_response):
    return chunks_of(environ, start_response, [b"", *CHUNKS, b""])


@case(closed=1)
def generator_too_long(environ, start_response):
    return chunks_of(environ, start_response, CHUNKS, ("Content-Length", "9"))


@case(closed=1, short=True)
def generator_too_short(environ, start_response):
    return chunks_of(environ, start_response, CHUNKS, ("Content-Length", "30"))


@case()
def generator_length_no_number(_environ, start_response):
    start_response("200 OK", [TYPE, ("Content-Length", "many")])
    return Chunks()


def chunks_of(environ, start_response, chunks, *headers):
    start_response("200 OK", [TYPE, *headers])
    return noting(environ, chunks)


@case(closed=1)
def lazy_start(environ, start_response):
    # The whole application is a generator: start_response is called in the first next().
    try:
        start_response("202 Accepted", [TYPE])
        yield from CHUNKS
    finally:
        note(environ, "close")


@case()
def lazy_start_one(_environ, start_response):
    start_response("202 Accepted", [TYPE])
    yield BODY


@case()
def lazy_start_after_empty(_environ, start_response):
    # What the PEP allows only some servers take.
    yield b""
    start_response("202 Accepted", [TYPE])
    yield BODY


@case()
def iterator(_environ, start_response):
    start_response("200 OK", [TYPE])
    return Chunks()


@case(closed=1)
def iterator_close(environ, start_response):
    start_response("200 OK", [TYPE])
    return Closing(environ)


@case(closed=1)
def iterator_close_length(environ, start_response):
    start_response("200 OK", [TYPE, CHUNKS_LENGTH])
    return Closing(environ)


@case(closed=1)
def iterator_sized(environ, start_response):
    start_response("200 OK", [TYPE])
    return Sized(environ)


@case(closed=1)
def iterator_sized_one(environ, start_response):
    # One item: the servers that take a Content-Length from that must still do so.
    start_response("200 OK", [TYPE])
    return Sized(environ, (BODY,))


@case(closed=1)
def iterator_sized_zero(environ, start_response):
    start_response("200 OK", [TYPE])
    return Sized(environ, ())


@case(closed=1)
def iterator_size_raises(environ, start_response):
    class Unsized(Closing):
        def __len__(self) -> int:
            raise failure(environ, "no length")

    start_response("200 OK", [TYPE])
    return Unsized(environ)


@case(closed=1)
def iterable_falsy(environ, start_response):
    # Its truth is no measure of what it yields.
    class Falsy(Closing):
        def __bool__(self) -> bool:
            return False

    start_response("200 OK", [TYPE])
    return Falsy(environ)


@case(closed=1)
def iterable_apart(environ, start_response):
    # Not its own iterator: close() belongs to the iterable.
    class Apart(Closing):
        def __iter__(self) -> Iterator[bytes]:
            return Chunks()

    start_response("200 OK", [TYPE])
    return Apart(environ)


@case()
def iterable_by_index(_environ, start_response):
    # The protocol from before iterators, which iter() still takes: gunicorn's file wrapper has it.
    class Indexed:
        def __getitem__(self, index: int) -> bytes:
            return CHUNKS[index]

    start_response("200 OK", [TYPE])
    return Indexed()


@case(closed=1)
def never_exhausted(environ, start_response):
    # Content-Length is reached before the iterator's end is.
    start_response("200 OK", [TYPE, LENGTH])
    return Closing(environ, [BODY, b"", b""])


@case()
def number_chunk(_environ, start_response):
    start_response("200 OK", [TYPE])
    return Chunks([BODY, 7])


@case()
def none_chunk_later(_environ, start_response):
    start_response("200 OK", [TYPE])
    return Chunks([BODY, None, BODY])
