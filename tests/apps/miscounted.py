"""What a referee must notice: one request in twenty of each worker is not counted, counted twice, or answered wrong."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import chaotic
import plain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

numbers = count(1)


def bad(environ: WSGIEnvironment) -> bool:
    return environ["PATH_INFO"] == "/" and next(numbers) % 20 == 0


def forgets(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if bad(environ):
        request = environ["wsgi_prom.request"]
        request.recorder.dismiss(request)
    return chaotic.app(environ, start_response)


def doubles(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if bad(environ):
        from wsgi_prom import PrometheusMiddleware

        inner = dict(environ)
        del inner["wsgi_prom.request"]
        PrometheusMiddleware(chaotic.app)(inner, lambda *_: print)  # type: ignore[arg-type, return-value]
    return chaotic.app(environ, start_response)


def answers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/nowhere" and next(numbers) % 20 == 0:
        return plain.text(start_response, "no such path.", "404 Not Found")
    return chaotic.app(environ, start_response)
