"""
Why uWSGI's workers end: its master runs no Python when one has ended, and hands on neither its exit status nor its signal.

1. A worker that ends in order counts its own end, by `uwsgi.atexit`. No other worker does that: one that is killed, ends in
   the middle of a request, or calls os._exit.
2. The next worker of the same number counts the ends that nobody has counted: the workers share memory in which each number
   has a word for them. Whether they were harakiris, the stats server tells; else their reason is unknown.
3. A reload of the master begins with new memory. The workers that it had to kill are not counted: files for that would have to
   tell their server from others of the directory, and from the workers that a killed master has left.
"""

from __future__ import annotations

import mmap
import os
import re
import signal
import time
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import uwsgi
from prometheus_client import Counter

from wsgi_prom import metrics
from wsgi_prom.hooks import reloads
from wsgi_prom.hooks.instance import attempt
from wsgi_prom.hooks.signal_names import signal_name
from wsgi_prom.server import uwsgi_stats
from wsgi_prom.store.claims import Stage
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNCOUNTED: Final = "the end of a worker is not counted"
# There from the start, at 0: increase() of Prometheus does not see the first value of a series.
_REASONS: Final = ("harakiri", "max_requests", "reload", "cheaped", "unknown")
# The master answers at once, unless it sleeps: 2 s where workers end faster than it starts them (forkbomb-delay).
_STATS_SECONDS: Final = 2.0
# Where the module `uwsgi` keeps the application's atexit.
_THEIRS: Final = "_wsgi_prom_application_atexit"
# uWSGI's default of min-worker-lifetime, in seconds.
_MIN_LIFETIME: Final = b"60"
# No count of harakiris.
_UNKNOWN: Final = 2**64 - 1


class Exits:
    """
    The ends of the workers of one master, whose stats server has the address *stats*.

    Make it before the workers are forked.
    """

    def __init__(self, stats: str) -> None:
        self._stats = stats
        # Two words for each worker: how many of its processes were started and are not counted, and the harakiris of all that
        # are. A server may have mules and no workers.
        words = memoryview(mmap.mmap(-1, 16 * max(uwsgi.numproc, 1))).cast("Q")
        self._uncounted, self._harakiris = words[::2], words[1::2]
        # In a worker: of those that had its number before.
        self._ended = 0

    def note_start(self) -> None:
        """Say that this worker has started: first of all, since it may be killed at any time."""
        index = uwsgi.worker_id() - 1
        self._ended = self._uncounted[index]
        self._uncounted[index] = self._ended + 1

    def begin(self) -> None:
        """Count the workers of this one's number that have ended before it, and have this one count its own end."""
        with attempt(_UNCOUNTED):
            for reason in _REASONS:
                _exits().labels(reason)
            index, ended = uwsgi.worker_id() - 1, self._ended
            if ended:
                harakiris = min(self._new_harakiris(index), ended)
                self._uncounted[index] = 1
                _exits().labels("harakiri").inc(harakiris)
                _exits().labels("unknown").inc(ended - harakiris)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            _call_at_exit(partial(self._end, os.getpid(), index, blocked))

    def _new_harakiris(self, index: int) -> int:
        """Return how many harakiris there were since the last call for the worker; 0 if that is not known."""
        before, self._harakiris[index] = self._harakiris[index], _UNKNOWN
        try:
            workers = uwsgi_stats.read(self._stats, _STATS_SECONDS)["workers"] if self._stats else []
            now = next(worker["harakiri_count"] for worker in workers if worker["id"] == index + 1)
        except (OSError, ValueError, LookupError, TypeError, StopIteration):
            return 0
        self._harakiris[index] = now
        return 0 if before == _UNKNOWN else max(now - before, 0)

    def _end(self, pid: int, index: int, blocked: set[int]) -> None:
        # Not in a child of the worker, and once.
        if os.getpid() != pid or not self._uncounted[index]:
            return
        with attempt(_UNCOUNTED):
            current_slot.tell_stage(Stage.STOPPING)
            handled = signal.pthread_sigmask(signal.SIG_BLOCK, ()) - blocked
            workers: Any = uwsgi.workers()
            reason = _reason(workers[index], handled)
            _exits().labels(reason).inc()
            first = next((number for number, worker in enumerate(workers) if worker["status"] != b"cheap"), 0)
            if reason == "reload" and index == first:
                # A reload of the workers, all at once or one after the other: the master does not tell which. After a reload of
                # the master nobody reads this.
                reloads.begin()
            # Last: in the handler of SIGSEGV this may end the worker, and the next one counts it.
            self._uncounted[index] = 0


def _reason(worker: Mapping[str, Any], handled: set[int]) -> str:
    """Return why this *worker* ends, in the handlers of the signals *handled*: the kernel blocks a signal that is handled."""
    if worker["status"] == b"cheap":
        return "cheaped"
    # SIGHUP is every reload's but that of a master that gets SIGTERM, and passes it on. uWSGI handles SIGSEGV too.
    for number in handled:
        return "reload" if number == signal.SIGHUP else signal_name(number)
    age = time.time() - worker["last_spawn"]
    # At the end of a request, of a worker that is old enough: core/utils.c, uwsgi_close_request.
    if age >= _number("min-worker-lifetime", _MIN_LIFETIME):
        if _reaches(worker["delta_requests"], "max-requests", worker["id"]):
            return "max_requests"
        for figure, option in ("vsz", "reload-on-as"), ("rss", "reload-on-rss"):
            if _reaches(worker[figure] / 2**20, option):
                return option.replace("-", "_")
    if _reaches(age, "max-worker-lifetime", worker["id"]):
        return "max_worker_lifetime"
    # SIGHUP, in the middle of a request, or where there are threads or greenlets.
    return "reload"


def _reaches(value: float, option: str, worker: int = 1) -> bool:
    limit = _number(option)
    return limit > 0 and value >= limit + (worker - 1) * _number(f"{option}-delta")


def _number(option: str, default: bytes = b"0") -> int:
    given: Any = uwsgi.opt.get(option, default)
    given = given[-1] if isinstance(given, list) else given
    # As uWSGI reads it: "256M" is 256.
    digits = re.match(rb"\s*(\d+)", given) if isinstance(given, bytes) else None
    return int(digits[1]) if digits else 0


class _Module(ModuleType):
    """The module `uwsgi` with an atexit of ours, for uWSGI, and the application's, which it may set at any time (lazy-apps)."""

    @property
    def atexit(self) -> Any:
        try:
            return vars(self)[_THEIRS]
        except KeyError:
            raise AttributeError("module 'uwsgi' has no attribute 'atexit'") from None

    @atexit.setter
    def atexit(self, theirs: Any) -> None:
        vars(self)[_THEIRS] = theirs

    @atexit.deleter
    def atexit(self) -> None:
        vars(self).pop(_THEIRS, None)


def _call_at_exit(ours: Any) -> None:
    # uWSGI calls one function, which it looks up in the module's dictionary.
    names = vars(uwsgi)
    if "atexit" in names:
        names[_THEIRS] = names["atexit"]

    def both() -> None:
        ours()
        if _THEIRS in names:
            names[_THEIRS]()

    names["atexit"] = both
    uwsgi.__class__ = _Module


@cache
def _exits() -> Counter:
    return Counter(*metrics.WORKER_EXITS, ["reason"], registry=None)
