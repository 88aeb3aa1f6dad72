"""PrometheusMiddleware around an application that reads the body of each request."""

from __future__ import annotations

from typing import Any

from contenders.bare_body import posted, reading
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return posted(PrometheusMiddleware(reading))
