"""
What many applications have for metrics at first: a counter in each worker's memory, and a path that shows it.

The demo puts it between the application and wsgi_prom, to show what several scrapes of it say.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily

from wsgi_prom import metrics
from wsgi_prom.request.routes import find_route, set_route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from prometheus_client.metrics_core import Metric

PATH: Final = "/naive-metrics"

# A request with this header has its worker named in the server's log before it is served: whom to kill.
ANNOUNCE_HEADER: Final = "X-Demo-Announce"
_ANNOUNCE_KEY: Final = "HTTP_X_DEMO_ANNOUNCE"


class Naive:
    """
    Count the requests of *app* in a dictionary of this process, and answer PATH with it.

    Not thread safe: the demo's workers have one thread each.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        # Not a Counter of the client library: wsgi_prom would share that between the workers.
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == PATH:
            return self._show(environ, start_response)
        if _ANNOUNCE_KEY in environ:
            print(announcement(environ[_ANNOUNCE_KEY], os.getpid()), file=sys.stderr, flush=True)  # noqa: T201

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
            self._counts[
                environ["REQUEST_METHOD"], find_route(environ, environ.get("PATH_INFO", "")), status[:3]
            ] += 1
            return start_response(status, headers, *exc_info)

        return self._app(environ, start)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(*metrics.REQUESTS, labels=("method", "route", "status"))
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family

    def _show(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Inside of wsgi_prom's middleware, which the hooks put outermost: these requests are a row of their own.
        set_route(environ, PATH)
        page: bytes = generate_latest(self)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
        return [page]


def announcement(name: str, pid: int | str) -> str:
    """Return the log line of the worker *pid* that serves the request called *name*."""
    return f"demo: worker {pid} serves {name}"
