"""
The metered application with a thread, started at import, that records into the application's own metrics all the time.

Where the master imports it, each worker is forked in the middle of that.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import metered
from prometheus_client import REGISTRY, Counter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

BEATS = Counter("app_beats_total", "Turns of the thread.", ["kind"])


def beat() -> None:
    turn = 0
    while True:
        turn += 1
        BEATS.labels("old").inc()
        BEATS.labels(f"new {turn % 500}").inc()
        metered.ORDERS.labels("thread").inc(0)
        list(REGISTRY.restricted_registry(["app_beats_total"]).collect())


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    BEATS.labels("request").inc()
    return metered.app(environ, start_response)


threading.Thread(target=beat, daemon=True).start()
