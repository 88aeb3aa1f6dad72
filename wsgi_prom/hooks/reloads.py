"""
The reloads of a server, counted by a worker that starts after one: the master and gunicorn's arbiter record nothing themselves.

1. The master puts the time of a reload into a pipe that it shares with its workers. The kernel gives it to one of them.
2. A reload whose application cannot be loaded starts no worker, and is not counted. Under lazy-apps uWSGI's workers load the
   application themselves, after they have counted.
"""

from __future__ import annotations

import os
import time
from array import array
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge

from wsgi_prom import metrics
from wsgi_prom.hooks.instance import attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNCOUNTED: Final = "a reload is not counted"
_SIZE: Final = array("d").itemsize

# The pipe's two ends, once there is one. Neither blocks.
_pipe: Sequence[int] = ()


def share() -> None:
    """Make what `begin` and `count` of this process's children use. For a server whose workers may call `begin`."""
    global _pipe
    with attempt(_UNCOUNTED):
        if not _pipe:
            _pipe = os.pipe()
            for end in _pipe:
                os.set_blocking(end, False)


def begin() -> None:
    """Say that the server reloads now, in the process that starts the new workers."""
    share()
    with attempt(_UNCOUNTED):
        os.write(_pipe[1], array("d", [time.time()]).tobytes())


def count() -> None:
    """Count a reload that no other worker has counted, in a worker that was started."""
    with attempt(_UNCOUNTED):
        total = _total()
        try:
            found = os.read(_pipe[0], _SIZE) if _pipe else b""
        except BlockingIOError:
            return
        if found:
            # In this order: a scrape that sees the reload has its time.
            _last().set(array("d", found)[0])
            total.inc()


@cache
def _total() -> Counter:
    return Counter(*metrics.RELOADS, registry=None)


@cache
def _last() -> Gauge:
    return Gauge(*metrics.LAST_RELOAD, multiprocess_mode="max", registry=None)
