"""What an application must not do: the raw path as its route; every third request raises. Run as `rawroutes:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom import set_route

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    set_route(environ, environ["PATH_INFO"])
    if environ["PATH_INFO"].endswith("3"):
        raise ValueError("asked to fail")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
