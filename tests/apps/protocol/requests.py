"""What comes with a request and decides the answer: methods, bodies that are read or not, environ; and no body at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from .case import (
    BODY,
    CASES,
    LENGTH,
    TYPE,
    Case,
    Closing,
    case,
    complete,
    failure,
    note,
    noting,
)
from .failing import raise_between
from .files import file_real_length, real_file, wrap_file
from .results import generator, generator_length, iterator_close, iterator_sized_one
from .starting import write_only

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIEnvironment


CASES["head_list"] = Case(CASES["list_one"].app, method="HEAD")
CASES["head_length"] = Case(CASES["list_one_length"].app, method="HEAD")
CASES["head_empty"] = Case(complete([], LENGTH), method="HEAD")
CASES["head_generator"] = Case(generator, method="HEAD", closed=1)
CASES["head_generator_length"] = Case(generator_length, method="HEAD", closed=1)
CASES["head_iterator"] = Case(iterator_close, method="HEAD", closed=1)
CASES["head_sized"] = Case(iterator_sized_one, method="HEAD", closed=1)
CASES["head_write"] = Case(write_only, method="HEAD")
CASES["head_file"] = Case(file_real_length, method="HEAD", closed=1)
CASES["head_raise"] = Case(raise_between, method="HEAD", closed=1)
CASES["no_content"] = Case(complete([], status="204 No Content"))
CASES["no_content_of_empty"] = Case(complete([b""], status="204 No Content"))
CASES["no_content_length"] = Case(complete([], ("Content-Length", "0"), status="204 No Content"))
CASES["no_content_body"] = Case(complete([BODY], status="204 No Content"))
CASES["not_modified"] = Case(complete([], ("ETag", '"1"'), status="304 Not Modified"))
CASES["not_modified_length"] = Case(complete([], LENGTH, status="304 Not Modified"))


@case(closed=1)
def no_content_generator(environ, start_response):
    start_response("204 No Content", [])
    return noting(environ, [])


@case(closed=1)
def not_modified_iterator(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"1"')])
    return Closing(environ, [])


@case(closed=1)
def not_modified_file(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"1"')])
    return wrap_file(environ, real_file(environ, BODY))


POSTED: Final = b"line one\nline two\nline three"
POST: Final = {"method": "POST", "headers": (("Content-Length", str(len(POSTED))),), "body": POSTED}
CHUNKED: Final = {
    "method": "POST",
    "headers": (("Transfer-Encoding", "chunked"),),
    "body": b"9\r\nline one\n\r\n13\r\nline two\nline three\r\n0\r\n\r\n",
}
EXPECT: Final = {**POST, "headers": (*POST["headers"], ("Expect", "100-continue"))}


def length(environ: WSGIEnvironment) -> int:
    """
    How much there is to read: more than that is not asked for, since some servers would wait for it.
    """
    if environ.get("wsgi.input_terminated") and "CONTENT_LENGTH" not in environ:
        return -1
    return int(environ.get("CONTENT_LENGTH") or 0)


@case(**POST)
def read_all(environ, start_response):
    data = environ["wsgi.input"].read(length(environ))
    start_response("200 OK", [TYPE])
    return [data]


@case(**POST, closed=1)
def read_late(environ, start_response):
    # After the headers went out.
    start_response("200 OK", [TYPE])
    try:
        yield b"read: "
        yield environ["wsgi.input"].read(length(environ))
    finally:
        note(environ, "close")


@case(**POST, closed=1)
def read_in_close(environ, start_response):
    class Reading(Closing):
        def close(self) -> None:
            environ["wsgi.input"].read(length(environ))
            super().close()

    start_response("200 OK", [TYPE])
    return Reading(environ)


@case(**POST)
def read_partly(environ, start_response):
    data = environ["wsgi.input"].read(4)
    start_response("200 OK", [TYPE])
    return [data]


@case(**POST)
def read_not(_environ, start_response):
    start_response("200 OK", [TYPE])
    return [BODY]


@case(**POST)
def read_lines(environ, start_response):
    source = environ["wsgi.input"]
    first = source.readline()
    second = source.readline(4)
    start_response("200 OK", [TYPE])
    return [first, b"|", second]


@case(**POST)
def read_line_part(environ, start_response):
    line = environ["wsgi.input"].readline(4)
    start_response("200 OK", [TYPE])
    return [line]


@case(**POST)
def read_by_iteration(environ, start_response):
    line = next(iter(environ["wsgi.input"]))
    start_response("200 OK", [TYPE])
    return [line]


@case(**POST)
def read_and_raise(environ, _start_response):
    environ["wsgi.input"].read(length(environ))
    raise failure(environ)


@case(**POST)
def read_not_and_raise(environ, _start_response):
    raise failure(environ)


@case(**POST)
def read_by_next(environ, start_response):
    # Real files and gunicorn's body have it, others not.
    line = next(environ["wsgi.input"])
    start_response("200 OK", [TYPE])
    return [line]


@case(**POST)
def read_lines_at_once(environ, start_response):
    start_response("200 OK", [TYPE])
    source = environ["wsgi.input"]
    return source.readlines(4) if length(environ) < 0 else [source.readline()]


for _name in (
    "read_late",
    "read_partly",
    "read_line_part",
    "read_by_iteration",
    "read_by_next",
    "read_lines_at_once",
):
    CASES[f"{_name}_chunked"] = Case(CASES[_name].app, **CHUNKED, closed=CASES[_name].closed)
CASES["read_chunked"] = Case(read_all, **CHUNKED)
CASES["read_chunked_not"] = Case(read_not, **CHUNKED)
CASES["read_nothing"] = Case(read_all, method="POST", headers=(("Content-Length", "0"),))
CASES["read_without_length"] = Case(read_all)
CASES["read_much_not"] = Case(
    read_not, method="POST", headers=(("Content-Length", "300000"),), body=b"m" * 300000
)
CASES["read_much"] = Case(
    read_all, method="POST", headers=(("Content-Length", "300000"),), body=b"m" * 300000
)
CASES["expect_read"] = Case(read_all, **EXPECT)
CASES["expect_late"] = Case(read_late, **EXPECT, closed=1)
CASES["expect_not"] = Case(read_not, **EXPECT)
CASES["expect_raise"] = Case(read_not_and_raise, **EXPECT)
CASES["method_unknown"] = Case(CASES["list_one"].app, method="FOOBAR")
CASES["method_delete"] = Case(CASES["no_content"].app, method="DELETE")
CASES["method_options"] = Case(CASES["empty_length"].app, method="OPTIONS")


# What differs between two servers by nature, or names a measuring middleware's own.
UNSTEADY: Final = ("SERVER_PORT", "REMOTE_PORT", "wsgi_prom.")


@case()
def environ_seen(environ, start_response):
    # What the application finds in environ: names, and the values that are text.
    start_response("200 OK", [TYPE])
    lines = [
        f"{name}={value}\n" if isinstance(value, str) else f"{name}\n"
        for name, value in sorted(environ.items())
        # wsgiref puts the process's own environment in as well.
        if name not in os.environ and not name.startswith(UNSTEADY)
    ]
    return ["".join(lines).encode(errors="backslashreplace")]


@case()
def environ_is_a_dict(environ, start_response):
    # PEP 3333: a builtin dict, no subclass, which the application may change.
    environ["REQUEST_METHOD"] = "CHANGED"
    environ["PATH_INFO"] = "/changed"
    start_response("200 OK", [TYPE])
    return [type(environ).__name__.encode()]


@case(closed=1)
def environ_cleared(environ, start_response):
    # By the end nothing is left of it.
    def rest() -> Iterator[bytes]:
        try:
            yield b"first\n"
            query, events = environ["QUERY_STRING"], environ.get("protocol.events")
            environ.clear()
            yield b"second\n"
        finally:
            environ["QUERY_STRING"] = query
            if events is not None:
                environ["protocol.events"] = events
            note(environ, "close")

    start_response("200 OK", [TYPE])
    return rest()
