"""An application that counts its requests itself, by a name that wsgi_prom's metric has too."""

from __future__ import annotations

import json
import os
from typing import Any

from prometheus_client import Counter, Summary

from wsgi_prom import PrometheusMiddleware

COUNTED = Counter("http_requests_total", "Requests that I have counted.", ["path"])
TIMED = Summary("http_request_duration_seconds", "How long I took.")


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    COUNTED.labels(environ["PATH_INFO"]).inc()
    TIMED.observe(1)
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]


def wrapped(environ: dict[str, Any], start_response: Any) -> Any:
    return MEASURED(environ, start_response)


MEASURED = PrometheusMiddleware(app, **json.loads(os.environ.get("TAKEN_KEYWORDS", "{}")))
