"""start_response and what it returns: once, again, late, wrongly, and the callable that writes."""

from __future__ import annotations

import sys

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
    FailureError,
    case,
    complete,
    failure,
    note,
)


@case()
def write_only(_environ, start_response):
    write = start_response("200 OK", [TYPE])
    for chunk in CHUNKS:
        write(chunk)
    return []


@case()
def write_length(_environ, start_response):
    write = start_response("200 OK", [TYPE, CHUNKS_LENGTH])
    for chunk in CHUNKS:
        write(chunk)
    return []


@case()
def write_then_list(_environ, start_response):
    start_response("200 OK", [TYPE])(b"written\n")
    return [BODY]


@case(closed=1)
def write_then_iterator(environ, start_response):
    start_response("200 OK", [TYPE])(b"written\n")
    return Closing(environ)


@case(closed=1)
def write_in_generator(environ, start_response):
    try:
        write = start_response("200 OK", [TYPE])
        write(b"written\n")
        yield b"yielded\n"
        write(b"written\n")
        yield b"yielded\n"
    finally:
        note(environ, "close")


@case()
def write_empty(_environ, start_response):
    write = start_response("200 OK", [TYPE])
    write(b"")
    write(BODY)
    return []


@case()
def write_str(_environ, start_response):
    start_response("200 OK", [TYPE])("text")
    return []


@case()
def write_then_raise(environ, start_response):
    start_response("200 OK", [TYPE])(BODY)
    raise failure(environ)


@case()
def write_result(_environ, start_response):
    # Nothing that the PEP names; an application may still look.
    result = start_response("200 OK", [TYPE])(b"written\n")
    return [repr(result).encode()]


@case()
def start_never(_environ, _start_response):
    return [BODY]


@case()
def start_never_generator(_environ, _start_response):
    yield BODY


@case()
def start_twice(_environ, start_response):
    start_response("200 OK", [TYPE])
    start_response("201 Created", [TYPE])
    return [BODY]


@case()
def start_again_before(environ, start_response):
    try:
        start_response("200 OK", [TYPE, ("X-First", "1")])
        raise failure(environ)
    except FailureError:
        start_response("503 Service Unavailable", [TYPE, ("X-Second", "2")], sys.exc_info())
        return [b"sorry\n"]


@case(closed=1)
def start_again_before_in_generator(environ, start_response):
    try:
        try:
            start_response("200 OK", [TYPE])
            raise failure(environ)
        except FailureError:
            start_response("503 Service Unavailable", [TYPE], sys.exc_info())
            yield b"sorry\n"
    finally:
        note(environ, "close")


@case()
def start_first_with_exc_info(environ, start_response):
    try:
        raise failure(environ)
    except FailureError:
        start_response("503 Service Unavailable", [TYPE], sys.exc_info())
        return [b"sorry\n"]


@case()
def start_with_exc_info_none(_environ, start_response):
    start_response("200 OK", [TYPE], None)
    return [BODY]


@case()
def start_by_keyword(environ, start_response):
    # The PEP says by position, and most servers' start_response takes the keyword all the same.
    try:
        raise failure(environ)
    except FailureError:
        start_response("503 Service Unavailable", [TYPE], exc_info=sys.exc_info())
        return [b"sorry\n"]


@case()
def start_all_by_keyword(_environ, start_response):
    start_response(status="200 OK", headers=[TYPE])
    return [BODY]


@case(closed=1)
def start_again_after(environ, start_response):
    # The server has sent the headers: it raises what it is given, and the application lets that pass.
    try:
        start_response("200 OK", [TYPE])
        yield b"first\n"
        try:
            raise failure(environ)
        except FailureError:
            start_response("503 Service Unavailable", [TYPE], sys.exc_info())
        yield b"never\n"
    finally:
        note(environ, "close")


@case()
def start_again_after_write(environ, start_response):
    start_response("200 OK", [TYPE])(b"written\n")
    try:
        raise failure(environ)
    except FailureError:
        start_response("503 Service Unavailable", [TYPE], sys.exc_info())
    return [b"never\n"]


@case()
def start_again_after_caught(environ, start_response):
    # As above, and the application catches what the server raises.
    start_response("200 OK", [TYPE])(b"written\n")
    try:
        raise failure(environ)
    except FailureError:
        try:
            start_response("503 Service Unavailable", [TYPE], sys.exc_info())
        except FailureError as error:
            return [f"caught {error}\n".encode()]
    return [b"never\n"]


@case()
def start_without_arguments(_environ, start_response):
    start_response()
    return [BODY]


CASES["status_without_reason"] = Case(complete([BODY], status="200"))
CASES["status_of_its_own"] = Case(complete([BODY], status="299 Never Heard Of"))
CASES["status_no_number"] = Case(complete([BODY], status="OK"))
CASES["status_empty"] = Case(complete([BODY], status=""))
CASES["status_bytes"] = Case(complete([BODY], status=b"200 OK"))  # type: ignore[arg-type]
CASES["status_newline"] = Case(complete([BODY], status="200 OK\r\nX-Evil: 1"))
CASES["headers_ordered"] = Case(
    complete(
        [BODY],
        ("set-cookie", "b=2"),
        ("X-Zebra", "z"),
        ("Set-Cookie", "a=1"),
        ("x-alpha", "caf\xe9"),
        ("X-Zebra", ""),
    )
)
CASES["headers_of_the_server"] = Case(
    complete([BODY], ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "none"))
)
CASES["header_connection"] = Case(complete([BODY], LENGTH, ("Connection", "close")))
CASES["header_newline"] = Case(complete([BODY], ("X-Evil", "a\r\nX-More: b")))
CASES["header_number"] = Case(complete([BODY], ("X-Number", 7)))  # type: ignore[arg-type]
CASES["header_no_latin"] = Case(complete([BODY], ("X-Word", "\u03bb")))


@case()
def headers_changed_later(_environ, start_response):
    # The list is the server's from here on; most look at it when they send it.
    headers = [TYPE]
    start_response("200 OK", headers)
    headers.append(("X-Late", "1"))
    return [BODY]


@case()
def headers_no_list(_environ, start_response):
    start_response("200 OK", (TYPE,))
    return [BODY]


@case()
def headers_none(_environ, start_response):
    start_response("200 OK", None)
    return [BODY]


@case()
def headers_once(_environ, start_response):
    # An iterator: whoever looks first leaves nothing for whoever looks next.
    start_response("200 OK", iter([TYPE, LENGTH]))
    return Chunks([BODY])
