"""The metered application with more ways to go: pieces of a known length, requests that hang; run as `chaotic:app`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import metered
import plain
from prometheus_client import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

PIECES = [f"piece {number}\n".encode() for number in range(3)]
STORM = Counter("app_storm_total", "Label sets that nobody has seen before.", ["number"])


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    handler = HANDLERS.get(environ["PATH_INFO"])
    if handler is None:
        return metered.app(environ, start_response)
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    return handler(environ, start_response)


def pieces(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    length = sum(map(len, PIECES))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(length))])
    return iter(PIECES)


def hang(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    # Until the server ends the worker for it, and bounded all the same.
    time.sleep(60)
    return plain.text(start_response, "woken")


def storm(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    # Each a line of the slot's keys, and a growing file of its values.
    first = int(plain.query(environ)["from"])
    for number in range(first, first + 50):
        STORM.labels(str(number)).inc()
    return plain.text(start_response, "stormed")


def clock(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    return plain.text(start_response, str(time.time()))


HANDLERS: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "/pieces": pieces,
    "/hang": hang,
    "/storm": storm,
    "/clock": clock,
}
