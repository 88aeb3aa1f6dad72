"""Requests that use the processor, and requests that wait; server tests run it as `burning:app`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

SECONDS = 0.2


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    environ["wsgi_prom.route"] = path
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/stream":
        return stream()
    if path == "/burn":
        burn(SECONDS)
    else:
        time.sleep(SECONDS)
    return [b"done"]


def stream() -> Iterator[bytes]:
    for _ in range(2):
        burn(SECONDS / 2)
        yield b"chunk"


def burn(seconds: float) -> None:
    """Use *seconds* of this thread's processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
