"""
The metered application with a thread, started at import, that is in the middle of labels() whenever the master forks.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import metered
from prometheus_client import Counter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

BEATS = Counter("app_beats_total", "Who got past the thread.", ["kind"])


def hold() -> None:
    with BEATS._lock:
        held.set()
        time.sleep(3600)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    BEATS.labels("request").inc()
    return metered.app(environ, start_response)


held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
