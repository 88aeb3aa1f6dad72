"""
What the middleware adds to a request: nanoseconds against a bare application, and against two peers in the same run.

Each contender serves the same trivial application in process; rounds are interleaved, so that a noisy neighbour falls on
all of them, and the medians of several rounds are compared. The ratio is what counts: absolute times are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPS = 20_000
ROUNDS = 7


def bare(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def floor(app: Any) -> Any:
    """Wrap and time, and record nothing: what any middleware costs."""

    def middleware(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        started = time.perf_counter()
        status = ""

        def start(found: str, headers: Any, *exc_info: Any) -> Any:
            nonlocal status
            status = found
            return start_response(found, headers, *exc_info)

        try:
            return app(environ, start)
        finally:
            _ = (time.perf_counter() - started, environ["REQUEST_METHOD"], status[:3])

    return middleware


def stock(app: Any) -> Any:
    """By hand: the client library's Counter and Histogram with labels, in its multiprocess mode."""
    from prometheus_client import CollectorRegistry, Counter, Histogram

    registry = CollectorRegistry()
    requests = Counter("requests_total", "Requests.", ["method", "route", "status"], registry=registry)
    duration = Histogram("duration_seconds", "Duration.", ["method", "route"], registry=registry)

    def middleware(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        started = time.perf_counter()
        status = ""

        def start(found: str, headers: Any, *exc_info: Any) -> Any:
            nonlocal status
            status = found
            return start_response(found, headers, *exc_info)

        try:
            return app(environ, start)
        finally:
            method = environ["REQUEST_METHOD"]
            requests.labels(method, "/", status[:3]).inc()
            duration.labels(method, "/").observe(time.perf_counter() - started)

    return middleware


def ours(app: Any) -> Any:
    """PrometheusMiddleware as it comes, recording into a shared directory."""
    from wsgi_prom import PrometheusMiddleware

    return PrometheusMiddleware(app)


def ns_per_request(app: Any) -> float:
    environs = []
    for _ in range(LOOPS):
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environs.append(environ)

    def start_response(_status: str, _headers: Any, *_: Any) -> None:
        return None

    started = time.perf_counter()
    for environ in environs:
        app(environ, start_response)
    return (time.perf_counter() - started) / LOOPS * 1e9


CONTENDERS = {"bare": lambda app: app, "floor": floor, "stock": stock, "ours": ours}


def measure(name: str) -> float:
    """Measure one contender in a process and a directory of its own, as its users have it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # tmpfs, as in production
        done = subprocess.run(
            [sys.executable, __file__, "--one", name],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder},
            capture_output=True,
            text=True,
            check=True,
        )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        app = CONTENDERS[arguments.one](bare)
        ns_per_request(app)  # the first label sets, and warm caches
        print(min(ns_per_request(app) for _ in range(3)))
        return
    rounds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name, values in rounds.items():
            values.append(measure(name))
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    added = {name: value - medians["bare"] for name, value in medians.items() if name != "bare"}
    if arguments.json:
        print(json.dumps({"added_ns": added, "rounds_ns": rounds}))
        return
    for name, value in added.items():
        print(f"{name:6} adds {value:8.0f} ns a request")
    print(
        f"ours / stock: {added['ours'] / added['stock']:.2f}   ours / floor: {added['ours'] / added['floor']:.2f}"
    )


if __name__ == "__main__":
    main()
