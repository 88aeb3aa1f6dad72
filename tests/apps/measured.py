"""Responses and requests of known sizes; run as `measured:app`. `/input` answers with what it read of the body."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom import set_route

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

# A file of this checkout: nothing to make, and nothing to remove.
FILE = Path(__file__)

HEADERS = [("Content-Type", "application/octet-stream")]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    set_route(environ, path)
    start_response("200 OK", HEADERS)
    if path == "/endless":
        return endless()
    if path == "/input":
        return [environ["wsgi.input"].read()]
    if path == "/file":
        return environ["wsgi.file_wrapper"](FILE.open("rb"))  # the server closes it
    return [b"y" * 1000]


def endless() -> Iterator[bytes]:
    # Bounded all the same, should nobody leave.
    for _ in range(10_000):
        time.sleep(0.001)
        yield b"z" * 10_000
