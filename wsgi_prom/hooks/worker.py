"""What the hooks of both servers do in a worker: tell its stage, and claim its slot."""

from __future__ import annotations

import signal
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Counter

from wsgi_prom import metrics
from wsgi_prom.client.asking_thread import asking_thread
from wsgi_prom.discovery.worker_target import worker_target
from wsgi_prom.hooks.instance import attempt
from wsgi_prom.request.garbage import collections
from wsgi_prom.server import app_info
from wsgi_prom.store.claims import Stage
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable

_LATER: Final = "this worker claims its slot later"


def begin(*, booting: bool) -> None:
    """Claim a slot in a worker that was forked now. *booting*: it loads its application itself, before it serves."""
    with attempt(_LATER):
        current_slot.tell_stage(Stage.BOOTING if booting else Stage.SERVING)
        current_slot.prepare()
        _starts().inc()
        collections.begin()
    if not booting:
        app_info.tell()


def serve() -> None:
    """Say that the worker's application is loaded. Claims a slot if `begin` could not."""
    with attempt(_LATER):
        current_slot.tell_stage(Stage.SERVING)
        current_slot.prepare()
    with attempt("the collectors of this worker are not asked"):
        asking_thread.begin()
    with attempt("this worker has no page of its own"):
        worker_target.begin()
    app_info.tell()


def stop_at(*numbers: signal.Signals) -> None:
    """Say that the worker is stopping when it gets one of the signals *numbers*, before the server's own handler runs."""
    for number in numbers:
        theirs: Any = signal.getsignal(number)
        if callable(theirs):
            signal.signal(number, partial(_stopping, theirs))
            # As gunicorn has it: a system call that the signal interrupts is begun again.
            signal.siginterrupt(number, False)


def _stopping(theirs: Callable[..., Any], number: int, frame: Any) -> Any:
    with attempt("a worker that stops is shown as idle or busy"):
        current_slot.tell_stage(Stage.STOPPING)
    return theirs(number, frame)


@cache
def _starts() -> Counter:
    # At the first worker, when the client library's metrics record into slots. In no registry: the user's is not ours.
    return Counter(*metrics.WORKER_STARTS, registry=None)
