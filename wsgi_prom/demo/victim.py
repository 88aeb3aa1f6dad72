"""The worker that is killed in the middle of a request."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from wsgi_prom.demo.load import SLOW, send
from wsgi_prom.demo.naive import ANNOUNCE_HEADER, announcement
from wsgi_prom.demo.server import DemoError

if TYPE_CHECKING:
    from wsgi_prom.demo.load import Tally
    from wsgi_prom.demo.server import Server

_NAME: Final = "the-last-request-of-a-worker"

# Long enough for a scrape to show the request in progress, and far shorter than the request.
_UNDER_WAY_SECONDS: Final = 0.5
_REQUEST_SECONDS: Final = 4


def kill_one(server: Server, tally: Tally) -> int:
    """
    Send a slow request, kill -9 the worker that serves it, and return that worker's pid.

    The request has entered the middleware when its worker is known: it is in progress, and will never be over.
    """
    with ThreadPoolExecutor(1, "victim") as pool:
        pool.submit(
            send,
            server.address,
            SLOW,
            tally,
            query=f"?seconds={_REQUEST_SECONDS}",
            headers={ANNOUNCE_HEADER: _NAME},
        )
        pid = int(server.await_log(announcement(_NAME, "*")))
        time.sleep(_UNDER_WAY_SECONDS)
        if pid not in server.workers():
            raise DemoError(f"pid {pid} is no worker of {server.kind}.{server.log_tail()}")
        os.kill(pid, signal.SIGKILL)
    return pid
