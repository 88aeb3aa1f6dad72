"""The chaotic application with requests that use resources up: space, file descriptors; run as `harmed:app`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import chaotic
import descriptors
import plain
from prometheus_client import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

# More than a page of values, so that a file of two can be cut between them.
SETS = 600
SWOLLEN = Counter("app_swollen_total", "Label sets that fill more than a page.", ["number"])
FLOOD = Counter("app_flood_total", "Label sets that fill a file system.", ["text"])


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    handler = HANDLERS.get(environ["PATH_INFO"])
    if handler is None:
        return chaotic.app(environ, start_response)
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    return handler(environ, start_response)


def swell(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    for number in range(SETS):
        SWOLLEN.labels(str(number)).inc()
    time.sleep(0.2)  # long enough for each worker to get one
    return plain.text(start_response, "swollen")


def flood(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    # Long, and each another.
    FLOOD.labels(plain.query(environ)["text"] * 100).inc()
    return plain.text(start_response, "flooded")


def exhaust(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    time.sleep(0.2)
    # This connection's own is free again in a moment, and the only one.
    descriptors.take(spare=0)
    return plain.text(start_response, "exhausted")


def release(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    time.sleep(0.2)
    descriptors.release()
    return plain.text(start_response, "released")


HANDLERS: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "/swell": swell,
    "/flood": flood,
    "/exhaust": exhaust,
    "/release": release,
}
