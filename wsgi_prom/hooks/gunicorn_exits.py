"""
Why gunicorn's workers end: counted in the arbiter, which alone gets their exit status.

1. gunicorn tells its hooks neither the status nor the reason, and calls child_exit not for every worker. So the arbiter's own
   `reap_workers` (19 to 27) is preceded by a look at the status of each worker that has ended, which leaves the worker to it.
2. The arbiter has no slot, which would be that of a worker that has ended. It keeps its counts in a file of its own
   (store/exit_counts.py); where that cannot be written, they wait in its memory, and it tries again every second.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gunicorn.arbiter import Arbiter

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.hooks.instance import attempt
from wsgi_prom.hooks.signal_names import signal_name
from wsgi_prom.store import directory_files, exit_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger("wsgi_prom")

_UNCOUNTED: Final = "exits of workers are not counted"
# The signals by which gunicorn ends a worker. SIGABRT is another, of which `aborted` tells; SIGUSR1 has it open its logs again.
_ENDING: Final = {signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGKILL}
_BOOT_ERRORS: Final = {Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR}
# There from the start, at 0: increase() of Prometheus does not see the first value of a series.
_REASONS: Final = (
    "timeout",
    "max_requests",
    "reload",
    "boot_error",
    "cheaped",
    "stop",
    "exit_0",
    "SIGKILL",
    "SIGSEGV",
    "unknown",
)


class _Counts:
    """The counts of this process's arbiter, and the file that they are kept in once it is known."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_REASONS, 0)
        self._path: Path | None = None
        self._number = 0
        self._uid = 0
        self._unsaved = True
        self._saving = False
        self._failed = False

    def keep(self, path: Path, number: int, uid: int) -> None:
        """
        Keep the counts in file *number* of the directory *path*, which belongs to *uid*, and go on with what is there.

        Another call only saves them.
        """
        if self._path is None:
            with suppress(OSError, DirectoryError, FormatError), directory_files.opened(path, uid) as folder:
                for reason, count in exit_counts.read(folder, number).items():
                    self._counts[reason] = self._counts.get(reason, 0) + count
        self._path, self._number, self._uid = path, number, uid
        self.save()

    def forget(self) -> None:
        """Keep them in memory alone from now on: the directory goes."""
        self._path = None

    def add(self, reason: str) -> None:
        self._counts.setdefault(reason, 0)
        # No call in this line: Python runs no signal handler in it.
        self._counts[reason] += 1
        self._unsaved = True

    def save(self) -> None:
        """
        Write the file if a count has changed or the file is gone. A call within another one does nothing: older gunicorns reap
        in signal handlers.
        """
        if self._path is None or self._saving:
            return
        self._saving = True
        try:
            while self._unsaved or not os.path.lexists(self._path / exit_counts.name(self._number)):
                self._unsaved = False
                with directory_files.opened(self._path, self._uid) as folder:
                    exit_counts.write(folder, self._number, self._counts)
            self._failed = False
        except Exception as error:
            self._unsaved = True
            if not self._failed:
                self._failed = True
                log.warning("exits of workers are not shown (%s): this is tried again every second", error)
        finally:
            self._saving = False


_counts: Final = _Counts()
keep: Final = _counts.keep
forget: Final = _counts.forget
# The workers that the arbiter has told to end, and whether it ends itself.
_told: Final[set[int]] = set()
_stops = False


def watch() -> None:
    """Count the exits of the workers of every arbiter in this process. Call it once."""
    _watch_reaping()
    kill: Callable[[Any, int, int], None] = Arbiter.kill_worker
    murder: Callable[[Any], None] = Arbiter.murder_workers
    stop: Callable[..., None] = Arbiter.stop

    def kill_worker(self: Any, pid: int, number: int) -> None:
        if number in _ENDING:
            _told.add(pid)
        kill(self, pid, number)

    def murder_workers(self: Any) -> None:
        # Each second.
        murder(self)
        _counts.save()

    def stop_workers(self: Any, *arguments: Any, **options: Any) -> None:
        global _stops
        _stops = True
        stop(self, *arguments, **options)

    Arbiter.kill_worker = kill_worker  # type: ignore[assignment, method-assign]
    Arbiter.murder_workers = murder_workers  # type: ignore[method-assign]
    Arbiter.stop = stop_workers  # type: ignore[method-assign]


def _watch_reaping() -> None:
    reap: Callable[[Any], None] = Arbiter.reap_workers

    def reap_workers(self: Any) -> None:
        before: dict[int, Any] = {}
        with attempt(_UNCOUNTED):
            before = dict(self.WORKERS)
            for pid, worker in before.items():
                if reason := _reason(self, pid, worker):
                    _count(pid, worker, reason)
        try:
            reap(self)
        finally:
            with attempt(_UNCOUNTED):
                for pid in before.keys() - self.WORKERS.keys():
                    # One that ended between the look and gunicorn's own.
                    _count(pid, before[pid], "unknown")
                _counts.save()

    Arbiter.reap_workers = reap_workers  # type: ignore[method-assign]


def _count(pid: int, worker: Any, reason: str) -> None:
    """Count the end of *worker*, once: gunicorn keeps it among its workers when it halts at another one's, and reaps again."""
    mine = object()
    # In one step: older gunicorns reap in signal handlers, of which another one may run at any time.
    if vars(worker).setdefault("wsgi_prom_end", mine) is mine:
        _told.discard(pid)
        _counts.add(reason)


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
            return signal_name(ended.si_status)
    elif ended.si_status != 0:
        return "boot_error" if ended.si_status in _BOOT_ERRORS else f"exit_{ended.si_status}"
    return _reason_of_end(arbiter, worker, told=told)


def _reason_of_end(arbiter: Any, worker: Any, *, told: bool) -> str:
    if told:
        # A reload brings a new configuration; else there are fewer workers (TTOU), or this arbiter ends (USR2 has started
        # another).
        return "reload" if worker.cfg is not arbiter.cfg else "stop" if _stops else "cheaped"
    return "max_requests" if worker.cfg.max_requests else "exit_0"
