"""
Applications that together cover PEP 3333, one case for each way in which a response can go, its mistakes included.

`protocol:app` serves the case that the last component of the path names. Nothing here knows of wsgi_prom, but that the
cases below /routed publish a route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

# Each puts its cases into the table.
from . import failing, files, requests, results, starting
from .case import BODY, CASES, TYPE
from .leaving import BIG, OTHERS, STREAM_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = (
    "BIG",
    "BODY",
    "CASES",
    "FAILING",
    "MISTAKES",
    "STREAM_SECONDS",
    "app",
    "failing",
    "files",
    "requests",
    "results",
    "starting",
)

# Cases that break the PEP: what their client gets is decided by the server, and by some after they were counted.
MISTAKES: Final = frozenset({
    "none_result", "number_result", "str_result", "str_chunk", "none_chunk", "bytearray_chunk", "bytes_result",
    "bytes_length", "number_chunk", "none_chunk_later", "write_str", "length_too_long", "length_too_short",
    "length_no_number", "length_negative", "generator_too_long", "generator_too_short", "generator_length_no_number",
    "lazy_start_after_empty", "iterator_size_raises", "start_never", "start_never_generator", "start_twice",
    "start_by_keyword", "start_all_by_keyword", "start_without_arguments", "status_no_number", "status_empty",
    "status_bytes", "status_newline", "header_connection", "header_newline", "header_number", "header_no_latin",
    "headers_no_list", "headers_none", "headers_once", "raise_stop_iteration", "file_yielded", "file_by_keyword",
    "file_told_by_its_class", "file_wrapper_removed", "file_wrapper_without_arguments",
    # cheroot has no file_wrapper, and will not send more of the file than its Content-Length.
    "file_part",
})  # fmt: skip

# Cases that raise before anything of the body went out.
FAILING: Final = frozenset({
    "raise_before", "raise_after_start", "raise_chained", "raise_in_iter", "raise_first", "raise_between_and_in_close",
    "file_read_fails", "read_and_raise", "read_not_and_raise", "expect_raise",
})  # fmt: skip


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    name = path.rpartition("/")[2]
    if name not in CASES and name not in OTHERS:
        start_response("404 Not Found", [TYPE, ("Content-Length", "0")])
        return [b""]
    if path.startswith("/routed/"):
        # Not all of them: so many series would only make it slow to read them.
        environ["wsgi_prom.route"] = path
    handler = CASES[name].app if name in CASES else OTHERS[name]
    return handler(environ, start_response)
