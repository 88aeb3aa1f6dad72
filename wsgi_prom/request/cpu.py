"""
The processor time of a request, on request (the setting `cpu`): that of the thread which serves it.

1. It is known only where a thread serves one request at a time: not in a greenlet, nor in uWSGI's async mode.
2. The thread that began the request has to end it: the time of another one says nothing about it.
"""

from __future__ import annotations

import sys
from threading import get_ident
from time import thread_time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.request import MeasuredRequest

    Begin = Callable[[MeasuredRequest, WSGIEnvironment], None]

# uWSGI's python plugin adds it in async mode alone (plugins/python/wsgi_handlers.c).
_UWSGI_ASYNC: Final = "x-wsgiorg.fdevent.readable"


def timed(begin: Begin) -> Begin:
    """Return a function that begins to measure a request as *begin* does, and its processor time."""

    def begin_timed(request: MeasuredRequest, environ: WSGIEnvironment) -> None:
        begin(request, environ)
        try:
            if not _shares_thread(environ):
                extras = request.more_extras()
                # Only the slow path counts what few requests have.
                extras.slow = True
                extras.cpu = get_ident(), thread_time()
        except Exception:  # a module called greenlet that is another's
            request.recorder.report_failure("cpu")

    return begin_timed


def used(began: tuple[int, float] | None) -> float | None:
    """Return the processor time in seconds since a request *began*, None if it is not known: see `Extras.cpu`."""
    if began is None or began[0] != get_ident():
        return None
    return thread_time() - began[1]


def _shares_thread(environ: WSGIEnvironment) -> bool:
    greenlet: Any = sys.modules.get("greenlet")
    # Each thread has a greenlet without a parent, which runs what no other one does.
    in_greenlet = greenlet is not None and greenlet.getcurrent().parent is not None
    return in_greenlet or _UWSGI_ASYNC in environ
