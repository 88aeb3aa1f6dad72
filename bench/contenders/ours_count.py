"""PrometheusMiddleware with what stock records, and no more: count and duration."""

from __future__ import annotations

from typing import Any

from contenders.bare import app
from wsgi_prom import PrometheusMiddleware
from wsgi_prom.metrics import DURATION, OPTIONAL


def application() -> Any:
    return PrometheusMiddleware(app, disable=sorted(OPTIONAL - {DURATION[0]}))
