"""Routes that answer 500 when they are asked to. Run as `failing:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    failed = environ["QUERY_STRING"] == "fail"
    start_response(
        "500 Oh" if failed else "200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")]
    )
    return []
