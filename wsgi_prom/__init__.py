"""Prometheus metrics for a WSGI application: all worker processes of its server are one target."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wsgi_prom.exporter.app import MetricsApp
    from wsgi_prom.hooks.joined_process import join
    from wsgi_prom.middleware import PrometheusMiddleware
    from wsgi_prom.request.routes import set_route

__all__ = ("MetricsApp", "PrometheusMiddleware", "join", "set_route")

# Each is imported at its first use: MetricsApp imports WebOb and prometheus_client (46 and 56 ms), which a worker that only
# records does not need.
_MODULES: Final = {
    "MetricsApp": "wsgi_prom.exporter.app",
    "PrometheusMiddleware": "wsgi_prom.middleware",
    "join": "wsgi_prom.hooks.joined_process",
    "set_route": "wsgi_prom.request.routes",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
