"""Django under PrometheusMiddleware, with the line in MIDDLEWARE that publishes the route."""

from __future__ import annotations

from typing import Any

from contenders.django_bare import application as django
from wsgi_prom import PrometheusMiddleware


def application() -> Any:
    return PrometheusMiddleware(django("wsgi_prom.frameworks.django.RouteMiddleware"))
