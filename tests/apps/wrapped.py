"""The plain application wrapped by hand, with a metric that nothing has recorded yet; run as `wrapped:app`."""

from __future__ import annotations

import plain
from prometheus_client import Counter, Histogram

from wsgi_prom import MetricsApp, PrometheusMiddleware

ORDERS = Counter("app_orders_total", "Orders taken.", ["kind"])
LATENCY = Histogram("app_latency_seconds", "Time that an order took.")

app = PrometheusMiddleware(plain.app, metrics_path="/metrics")
metrics = MetricsApp()
