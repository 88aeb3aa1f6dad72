"""PrometheusMiddleware around responses without a body."""

from __future__ import annotations

from typing import Any

from contenders.bare_empty import app
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return PrometheusMiddleware(app)
