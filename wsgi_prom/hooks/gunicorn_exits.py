"""
Why gunicorn's workers end: counted in the arbiter, which alone gets their exit status.

1. gunicorn tells its hooks neither the status nor the reason, and calls child_exit not for every worker. So the arbiter's own
   `reap_workers` (19 to 27) is preceded by a look at the status of each worker that has ended, which leaves the worker to it.
2. The arbiter records nothing, since it would need a slot: it would take that of the worker that has ended. The next worker
   that it forks finds the reasons in its memory, and counts them. (Those of a reload wait for the next: it starts
   the new workers before it ends the old ones.)
"""

from __future__ import annotations

import os
import signal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from gunicorn.arbiter import Arbiter
from prometheus_client import Counter

from wsgi_prom import metrics
from wsgi_prom.hooks.instance import attempt

if TYPE_CHECKING:
    from collections.abc import Callable

_UNCOUNTED: Final = "exits of workers are not counted"
_BOOT_ERRORS: Final = {Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR}

# Of workers that have ended since the last fork; and those of them that the next worker counts. A worker may end in the
# middle of a fork, and older versions of gunicorn reap it in a signal handler.
_reasons: Final[list[str]] = []
_for_next: tuple[str, ...] = ()
# The workers that the arbiter has sent a signal to.
_told: Final[set[int]] = set()


def watch() -> None:
    """Count the exits of the workers of every arbiter in this process. Call it once."""
    reap: Callable[[Any], None] = Arbiter.reap_workers
    kill: Callable[[Any, int, int], None] = Arbiter.kill_worker
    spawn: Callable[[Any], Any] = Arbiter.spawn_worker

    def reap_workers(self: Any) -> None:
        before: dict[int, Any] = {}
        found: dict[int, str] = {}
        with attempt(_UNCOUNTED):
            before = dict(self.WORKERS)
            found = {pid: why for pid, worker in before.items() if (why := _reason(self, pid, worker))}
        try:
            reap(self)
        finally:
            with attempt(_UNCOUNTED):
                for pid in before.keys() - self.WORKERS.keys() | found.keys():
                    _told.discard(pid)
                    # Unknown: one that ended between the look and gunicorn's own.
                    _reasons.append(found.get(pid, "unknown"))

    def kill_worker(self: Any, pid: int, number: int) -> None:
        _told.add(pid)
        kill(self, pid, number)

    def spawn_worker(self: Any) -> Any:
        global _for_next
        _for_next = tuple(_reasons)
        pid = spawn(self)
        del _reasons[: len(_for_next)]
        return pid

    Arbiter.spawn_worker = spawn_worker  # type: ignore[method-assign]
    Arbiter.reap_workers = reap_workers  # type: ignore[method-assign]
    Arbiter.kill_worker = kill_worker  # type: ignore[assignment, method-assign]


def count() -> None:
    """Count the exits that the arbiter has seen before it forked this worker."""
    with attempt(_UNCOUNTED):
        for reason in _for_next:
            _exits().labels(reason).inc()


def _reason(arbiter: Any, pid: int, worker: Any) -> str:
    """Return why the worker *pid* has ended, an empty text if it has not."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # somebody else has reaped it
        return "unknown"
    if ended is None:
        return ""
    if worker.aborted:  # by the arbiter, after `timeout` seconds without a sign of life
        return "timeout"
    told = pid in _told
    if ended.si_code != os.CLD_EXITED:
        # The arbiter repeats its SIGTERM, and Python that is ending no longer handles it.
        if not told or ended.si_status != signal.SIGTERM:
            return signal.Signals(ended.si_status).name
    elif ended.si_status != 0:
        return "boot_error" if ended.si_status in _BOOT_ERRORS else f"exit_{ended.si_status}"
    return _reason_of_end(arbiter, worker, told=told)


def _reason_of_end(arbiter: Any, worker: Any, *, told: bool) -> str:
    if told:
        # A reload brings a new configuration; else there are fewer workers (TTOU), or the server stops.
        return "reload" if worker.cfg is not arbiter.cfg else "cheaped"
    return "max_requests" if worker.cfg.max_requests else "exit_0"


@cache
def _exits() -> Counter:
    return Counter(*metrics.WORKER_EXITS, ["reason"], registry=None)
