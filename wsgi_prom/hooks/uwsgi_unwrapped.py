"""
Warn if uWSGI has the hook and no application is wrapped: its page would be empty.

1. No false alarm. An application may be wrapped in its framework, in another interpreter of the process (mounts), after the
   fork (lazy-apps), or at its first request. So the check counts only when requests were served, twice in a row.
2. uWSGI calls no Python after it has loaded an application but for requests and signals. A timer's signal goes to worker 1,
   for the first minutes alone. Where there is no master, there are no timers; without workers, no signal arrives.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

import uwsgi

from wsgi_prom.metrics import IN_PROGRESS, REQUESTS

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("wsgi_prom")

_SECONDS: Final = 1
_TIMES: Final = 150
# Each is a byte in a worker's pipe, which has space for some 270 where that worker hangs.
_SIGNALS: Final = 256


def watch(path: Path) -> None:
    """Warn once if requests are served, and none is counted in the directory *path*. Call it in the master, before it forks."""
    named: Any = uwsgi.opt.get("module", b"")
    unneeded = uwsgi.masterpid() == 0 or uwsgi.numproc == 0
    if unneeded or (isinstance(named, bytes) and named.startswith(b"wsgi_prom.wsgi")):
        return
    # The last that is free: applications count from the first.
    number = next((n for n in reversed(range(_SIGNALS)) if not uwsgi.signal_registered(n)), None)
    if number is None:
        return
    suspicions = 0

    def look(_: int) -> None:
        nonlocal suspicions
        try:
            if suspicions < 2:
                suspicions = suspicions + 1 if _served() and not _wrapped(path) else 0
                if suspicions == 2:
                    log.warning(
                        "requests are served, and none is counted: no application is wrapped. Set module = "
                        "wsgi_prom.wsgi:application and env = WSGI_PROM_APP=myapp:app, or wrap the application "
                        "with wsgi_prom.PrometheusMiddleware"
                    )
        except OSError:  # the directory was removed
            suspicions = 2

    uwsgi.register_signal(number, "worker1", look)
    uwsgi.add_rb_timer(number, _SECONDS, _TIMES)


def _served() -> bool:
    workers: Any = uwsgi.workers()
    # The former are whole, and may be of files alone; the latter are counted when they begin.
    whole = sum(worker["requests"] for worker in workers)
    return bool(whole and sum(app["requests"] for worker in workers for app in worker["apps"]))


def _wrapped(path: Path) -> bool:
    if "wsgi_prom.middleware" in sys.modules:
        return True
    # Help texts of metrics that each interpreter with a middleware has in its slot's keys. WSGI_PROM_PREFIX changes the names
    # alone.
    texts = [text.encode() for _, text in (REQUESTS, IN_PROGRESS)]
    return any(text in keys.read_bytes() for keys in path.glob("wsgi_prom.*.keys") for text in texts)
