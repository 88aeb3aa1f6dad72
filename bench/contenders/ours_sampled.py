"""PrometheusMiddleware with exemplars, and requests of a sampled trace."""

from __future__ import annotations

from typing import Any

from contenders.bare import app
from contenders.bare_sampled import traced
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return traced(PrometheusMiddleware(app, exemplars=True), sampled=True)
