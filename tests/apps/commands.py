"""An application that runs programs of its own, and tells what they find."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Under uWSGI sys.executable is the server.
PYTHON = f"{sys.prefix}/bin/python"
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# What preloaded code that asks for it, such as prometheus-flask-exporter, finds at its import.
AT_IMPORT = os.path.isdir(os.environ[VARIABLE])  # noqa: PTH112

ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"
JOB = """
from prometheus_client import Counter, Gauge, Histogram
Counter("jobs", "Jobs.").inc()
Gauge("job_last", "The last one.").set(1)
Histogram("job_seconds", "Seconds.").observe(0.1)
"""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what a program printed, `/copy/...` one that gets a copy of `os.environ`; `/own` tells what is seen here."""
    path = environ["PATH_INFO"]
    if path == "/own":
        body = f"{AT_IMPORT} {os.path.isdir(os.environ[VARIABLE])}".encode()  # noqa: PTH112
    else:
        env = {**os.environ} if path.startswith("/copy/") else None
        code = JOB if path.endswith("/job") else ENVIRONMENT
        done = subprocess.run([PYTHON, "-c", code], env=env, capture_output=True, check=False)
        body = done.stdout or b"%d" % done.returncode
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
