"""Flask with before_request and after_request handlers, as the articles have it: a Counter and a Histogram."""

from __future__ import annotations

import time
from typing import Any

from flask import g, request
from prometheus_client import Counter, Histogram

from contenders.flask_bare import application as flask


def application() -> Any:
    app = flask()
    requests = Counter("requests_total", "Requests.", ["method", "endpoint", "status"])
    duration = Histogram("duration_seconds", "Duration.", ["method", "endpoint"])

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def record(response: Any) -> Any:
        requests.labels(request.method, request.path, response.status_code).inc()
        duration.labels(request.method, request.path).observe(time.perf_counter() - g.started)
        return response

    return app
