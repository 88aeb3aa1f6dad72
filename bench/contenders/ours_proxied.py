"""PrometheusMiddleware behind a proxy that tells when it took the request."""

from __future__ import annotations

from typing import Any

from contenders.bare import app
from contenders.bare_proxied import proxied
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return proxied(PrometheusMiddleware(app))
