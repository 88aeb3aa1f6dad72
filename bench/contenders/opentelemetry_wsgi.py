"""OpenTelemetry's WSGI middleware with its Prometheus reader, without tracing. It has no mode for several processes."""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider

from contenders.bare import app


def application() -> Any:
    provider = MeterProvider(metric_readers=[PrometheusMetricReader()])
    return OpenTelemetryMiddleware(app, meter_provider=provider)
