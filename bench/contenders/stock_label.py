"""The same by hand, with one more label on both metrics: the host that was asked."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import Counter, Histogram

from contenders.bare import app


def application() -> Any:
    return middleware(app)


def middleware(app: Any) -> Any:
    requests = Counter("requests_total", "Requests.", ["method", "path", "status", "host"])
    duration = Histogram("duration_seconds", "Duration.", ["method", "path", "host"])

    def measured(environ: Any, start_response: Any) -> Any:
        started = time.perf_counter()
        status = ""

        def start(found: str, headers: Any, *exc_info: Any) -> Any:
            nonlocal status
            status = found
            return start_response(found, headers, *exc_info)

        try:
            return app(environ, start)
        finally:
            method, path, host = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["HTTP_HOST"]
            requests.labels(method, path, status[:3], host).inc()
            duration.labels(method, path, host).observe(time.perf_counter() - started)

    return measured
