"""An application with a histogram of its own, which forks a child that outlives a request, or shuts a listening socket down."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
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
    if environ["PATH_INFO"] == "/shut":
        shut_down(int(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def shut_down(port: int) -> None:
    """Shut the socket down that listens on *port*, as code does that takes all descriptors of its process for its own."""
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if not str(fd.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(fd.name))) as found:
                if (
                    found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    and found.getsockname()[1] == port
                ):
                    found.shutdown(socket.SHUT_RDWR)
