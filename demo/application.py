"""
The application that the demo serves: examples/flask, and the metrics that many applications have at first.

These count requests in a dictionary of each worker. A scrape of /naive-metrics shows one worker's counts.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING

from flask import request

from demo.load import ANNOUNCE_HEADER, NAIVE

if TYPE_CHECKING:
    from flask import Flask, Response


def add_naive_metrics(app: Flask) -> Flask:
    """Count the requests of *app* in this process, and show the counts at NAIVE.path."""
    # Not a Counter of the client library: wsgi_prom would add that up over the workers.
    counts: Counter[tuple[str, str, int]] = Counter()

    @app.after_request
    def count(response: Response) -> Response:
        if request.path != NAIVE.path:
            route = request.url_rule.rule if request.url_rule else "unmatched"
            counts[request.method, route, response.status_code] += 1
        return response

    @app.get(NAIVE.path)
    def page() -> tuple[str, dict[str, str]]:
        lines = [
            f'http_requests_total{{method="{method}",route="{route}",status="{status}"}} {number}\n'
            for (method, route, status), number in counts.items()
        ]
        return "".join(["# TYPE http_requests_total counter\n", *lines]), {"Content-Type": "text/plain"}

    return app


def announce_worker(app: Flask) -> Flask:
    """Log which worker serves a request that asks for it."""

    @app.before_request
    def announce() -> None:
        if ANNOUNCE_HEADER in request.headers:
            print(f"demo: worker {os.getpid()} serves {request.path}", file=sys.stderr, flush=True)

    return app


def shop() -> Flask:
    """Return the application of examples/flask, with both added."""
    app: Flask = import_module("app").app
    # /fail raises hundreds of times: its tracebacks would hide everything else in the server's log.
    app.logger.addFilter(lambda record: "/fail" not in record.getMessage())
    return announce_worker(add_naive_metrics(app))
