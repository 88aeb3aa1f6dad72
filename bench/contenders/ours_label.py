"""PrometheusMiddleware with one more label on all its metrics: the host that was asked."""

from __future__ import annotations

from typing import Any

from contenders.bare import app
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return PrometheusMiddleware(app, labels={"host": lambda environ: environ["HTTP_HOST"]})
