"""Prometheus metrics for a WSGI application: all worker processes of its server are one target."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgi_prom.exporter.app import MetricsApp
    from wsgi_prom.middleware import PrometheusMiddleware
    from wsgi_prom.request.routes import set_route

__all__ = ("MetricsApp", "PrometheusMiddleware", "set_route")


def __getattr__(name: str) -> object:
    # Each name is imported at its first use: MetricsApp imports WebOb and prometheus_client (46 and 56 ms), which a worker
    # that only records does not need.
    if name == "PrometheusMiddleware":
        from wsgi_prom.middleware import PrometheusMiddleware  # noqa: PLC0415

        return PrometheusMiddleware
    if name == "MetricsApp":
        from wsgi_prom.exporter.app import MetricsApp  # noqa: PLC0415

        return MetricsApp
    if name == "set_route":
        from wsgi_prom.request.routes import set_route  # noqa: PLC0415

        return set_route
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
