"""An application with a histogram of its own, one that forks a child which outlives a request, and nothing else."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from prometheus_client import Histogram

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

WORK = Histogram("work_seconds", "With the client library's default buckets.")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    WORK.observe(0.1)
    if environ["PATH_INFO"] == "/fork" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
