"""An application with the client library's documented multiprocess endpoint of its own; run as `collected:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    generate_latest,
    make_wsgi_app,
    push_to_gateway,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

ORDERS = Counter("app_orders_total", "Orders taken.")

registry = CollectorRegistry()
MultiProcessCollector(registry)
own_metrics = make_wsgi_app(registry)
# Metrics of a registry of the application's own, and the same metric in two.
other = CollectorRegistry()
SHIPPED = Counter("app_shipped_total", "Orders shipped.", registry=other)
other.register(ORDERS)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/own-metrics":
        return own_metrics(environ, start_response)
    if environ["PATH_INFO"] == "/latest":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [generate_latest(registry)]
    if environ["PATH_INFO"] == "/port":
        server, _ = start_http_server(0, "127.0.0.1", registry)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(server.server_port).encode()]
    if environ["PATH_INFO"] == "/push":
        push_to_gateway(environ["QUERY_STRING"], job="app", registry=registry)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"pushed"]
    ORDERS.inc()
    SHIPPED.inc(2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
