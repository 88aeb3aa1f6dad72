"""An application with the client library's documented multiprocess endpoint of its own; run as `collected:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

ORDERS = Counter("app_orders_total", "Orders taken.")

registry = CollectorRegistry()
MultiProcessCollector(registry)
own_metrics = make_wsgi_app(registry)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/own-metrics":
        return own_metrics(environ, start_response)
    ORDERS.inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
