"""Wrap and time, and record nothing: what any middleware costs."""

from __future__ import annotations

import time
from typing import Any

from contenders.bare import app


def application() -> Any:
    return middleware(app)


def middleware(app: Any) -> Any:
    def measured(environ: Any, start_response: Any) -> Any:
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

    return measured
