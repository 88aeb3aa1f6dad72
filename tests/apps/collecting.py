"""An application that collects garbage when it is asked to, and tells what Python has counted of it."""

from __future__ import annotations

import gc
import json
import os
from typing import TYPE_CHECKING

from plain import text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    stats = gc.get_stats()
    if environ["PATH_INFO"] == "/collect":
        for _ in range(10):
            cycle: list[object] = []
            cycle.append(cycle)
        del cycle
        gc.collect()
    return text(start_response, json.dumps({"pid": os.getpid(), "stats": stats}))
