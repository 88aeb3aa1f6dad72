"""Flask under PrometheusMiddleware, which finds the route by itself."""

from __future__ import annotations

from typing import Any

from contenders.flask_bare import application as flask
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return PrometheusMiddleware(flask())
