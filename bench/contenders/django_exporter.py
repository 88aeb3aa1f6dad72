"""Django with django-prometheus: its two middlewares around all others, as its README says."""

from __future__ import annotations

from typing import Any

from contenders.django_bare import application as django


def application() -> Any:
    return django(
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "django_prometheus.middleware.PrometheusAfterMiddleware",
        apps=("django_prometheus",),
    )
