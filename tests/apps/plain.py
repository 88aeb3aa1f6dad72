"""
A bare WSGI application, one path for each way in which a request can go; server tests run it as `plain:app`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

# The chunks are told apart so that a test sees which one was lost.
CHUNKS = [f"chunk {number}\n".encode() for number in range(5)]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    handler = HANDLERS.get(path)
    if handler is None:
        # No route on purpose: what the middleware makes of a request that nobody claims.
        return text(start_response, "no such path\n", "404 Not Found")
    environ["wsgi_prom.route"] = path
    return handler(environ, start_response)


def text(start_response: StartResponse, body: str, status: str = "200 OK") -> list[bytes]:
    data = body.encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(data)))])
    return [data]


def query(environ: WSGIEnvironment) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}


def index(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    return text(start_response, "ok")


def sleep(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    time.sleep(float(query(environ).get("s", "0.5")))
    return text(start_response, "slept")


def stream(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    # No Content-Length: the server has to find the end by iterating to it.
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (chunk for chunk in CHUNKS)


def fail(_environ: WSGIEnvironment, _start_response: StartResponse) -> list[bytes]:
    # gunicorn answers 500; uWSGI logs 500 and closes the connection, so that its client has no answer at all.
    raise ValueError("asked to fail")


def pid(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    return text(start_response, str(os.getpid()))


HANDLERS: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    "/": index,
    "/sleep": sleep,
    "/stream": stream,
    "/fail": fail,
    "/pid": pid,
}
