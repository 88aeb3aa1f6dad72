"""The plain application with label sets that requests use and remove; run as `removing:app`. Each answer is the worker's pid."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import plain
from prometheus_client import Counter, Enum, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

JOBS = Counter("app_jobs_total", "Jobs.", ["job"])
SECONDS = Histogram("app_job_seconds", "Time of a job.", ["job"], buckets=(1, 2))
STATE = Enum("app_state", "State of a job.", ["job"], states=["new", "done"])
# Made before the server has forked, under --preload or without lazy-apps.
JOBS.labels("known")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    asked = plain.query(environ)
    job, path = asked.get("job", ""), environ["PATH_INFO"]
    if path == "/use":
        JOBS.labels(job).inc()
        SECONDS.labels(job).observe(1.5)
        STATE.labels(job).state("done")
    elif path == "/remove":
        JOBS.remove(job)
        SECONDS.remove_by_labels({"job": job})
        STATE.remove(job)
    elif path == "/clear":
        for metric in (JOBS, SECONDS, STATE):
            metric.clear()
    else:
        return plain.app(environ, start_response)
    return plain.text(start_response, str(os.getpid()))
