"""PrometheusMiddleware with exemplars, and requests without a trace."""

from __future__ import annotations

from typing import Any

from contenders.bare import app
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return PrometheusMiddleware(app, exemplars=True)
