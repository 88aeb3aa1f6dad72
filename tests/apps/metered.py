"""
The plain application with metrics of its own, made at import as an application's are; run as `metered:app`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plain
from prometheus_client import Counter, Gauge, Histogram, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

# All that the client library's multiprocess mode knows.
MODES = (
    "all",
    "liveall",
    "max",
    "livemax",
    "min",
    "livemin",
    "sum",
    "livesum",
    "mostrecent",
    "livemostrecent",
)

ORDERS = Counter("app_orders_total", "Orders taken.", ["kind"])
SIZE = Summary("app_size", "Size of an order.")
LATENCY = Histogram("app_latency_seconds", "Time that an order took.", buckets=(1, 2, 5, 10))
GAUGES = [
    Gauge(f"app_gauge_{mode}", f"Last value, merged as {mode}.", multiprocess_mode=mode)  # type: ignore[arg-type]
    for mode in MODES
]
IMPORTS = Counter("app_imports_total", "Imports of this module.")
# Recorded before the server has forked under --preload or without lazy-apps, after it otherwise.
IMPORTS.inc()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/record":
        environ["wsgi_prom.route"] = "/record"
        return record(environ, start_response)
    return plain.app(environ, start_response)


def record(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    asked = plain.query(environ)
    value = float(asked.get("v", "1"))
    ORDERS.labels(asked.get("kind", "a")).inc(value)
    SIZE.observe(value)
    LATENCY.observe(value)
    for gauge in GAUGES:
        gauge.set(value)
    return plain.text(start_response, "recorded")
