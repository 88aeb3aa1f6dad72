"""An application that is wrapped at its first request, and says how many of uWSGI's signals worker 1 has had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plain
import uwsgi

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_wrapped: list[WSGIApplication] = []


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/signals":
        return plain.text(start_response, str(uwsgi.workers()[0]["signals"]))
    if not _wrapped:
        from wsgi_prom import PrometheusMiddleware

        _wrapped.append(PrometheusMiddleware(plain.app))
    return _wrapped[0](environ, start_response)
