"""An application with custom collectors and gauges with a function, of every kind that is promised; run as `custom:app`."""

from __future__ import annotations

import os
import posix
import sys
import threading
from typing import TYPE_CHECKING, Any

from plain import text
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

OWN = CollectorRegistry()
# The client library's documented endpoint of an application in several processes.
merged = CollectorRegistry()
MultiProcessCollector(merged)
own_metrics = make_wsgi_app(merged)
CALLS = Counter("calls", "How often each collector was asked.", ["collector"])


class Queue:
    """Asks a database, as it were: once for the application."""

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterable[Any]:
        CALLS.labels("queue").inc()
        family = GaugeMetricFamily("queue_length", "Jobs that wait.", labels=["queue"])
        family.add_metric(["mail"], 3)
        yield family
        yield InfoMetricFamily("queue_server", "The database.", {"pid": str(os.getpid())})


class Pool(Queue):
    """What each worker has of its own."""

    multiprocess_mode = "livesum"

    def collect(self) -> Iterable[Any]:
        yield CounterMetricFamily("pool_opened", "Connections opened.", 2)
        yield HistogramMetricFamily("pool_wait", "Waits.", buckets=[("1.0", 1), ("+Inf", 2)], sum_value=5)


class Failing(Queue):
    multiprocess_mode = "sum"

    def collect(self) -> Iterable[Any]:
        raise RuntimeError("asked to fail")


class Hanging(Queue):
    multiprocess_mode = "max"

    def collect(self) -> Iterable[Any]:
        CALLS.labels("hanging").inc()
        threading.Event().wait()
        yield from ()


class Forking(Queue):
    multiprocess_mode = "max"

    def collect(self) -> Iterable[Any]:
        # Not os.fork(), which gevent replaces: its waitpid() misses a child that ends at once, one time in some fifty.
        pid = posix.fork()
        if pid:
            posix.waitpid(pid, 0)
            yield GaugeMetricFamily("forked", "Whether it has forked.", 1)
        elif "gevent" in sys.modules:
            os._exit(0)
        # Else the child goes on in what has called this.


class Misspelt(Queue):
    multiprocess_mode = "sums"

    def collect(self) -> Iterable[Any]:
        yield GaugeMetricFamily("misspelt", "Whether it was asked.", 1)


REGISTRY.register(Queue())
REGISTRY.register(Misspelt())
OWN.register(Pool())
REGISTRY.register(Failing())
OWN.register(Hanging())
OWN.register(Forking())
Gauge("answer", "A constant.", multiprocess_mode="livemostrecent", registry=OWN).set_function(lambda: 42)
Gauge("threads", "Threads of a worker.").set_function(threading.active_count)
mixed = Gauge("mixed", "Of two kinds.", ["kind"], multiprocess_mode="sum", registry=None)
mixed.labels("function").set_function(lambda: 10)
mixed.labels("set").set(0)
Gauge("broken", "Never there.", multiprocess_mode="livesum").set_function(lambda: 1 / 0)


class Late(Queue):
    multiprocess_mode = "livesum"

    def collect(self) -> Iterable[Any]:
        yield GaugeMetricFamily("late", "Registered by a request.", 1)


late = Late()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/register":
        REGISTRY.register(late)
    elif environ["PATH_INFO"] == "/unregister":
        REGISTRY.unregister(late)
        mixed.remove("function")
    elif environ["PATH_INFO"] == "/own-metrics":
        return own_metrics(environ, start_response)
    return text(start_response, str(os.getpid()))
