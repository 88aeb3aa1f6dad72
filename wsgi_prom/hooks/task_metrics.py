"""
The metrics of a task queue's workers: what each task did, and how long it took.

A task is called by the name that it is registered by, and OTHER if it is none of the application's: the caller sees to that, and
keeps errors from the task.
"""

from __future__ import annotations

import threading
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Gauge, Histogram

from wsgi_prom import metrics
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Hashable

# Tasks take from milliseconds to hours.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
# As of requests.
_CHECK_SECONDS: Final = 1.0
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"


class TaskMetrics:
    """
    Records the tasks of this process, and of those that it forks. Thread and fork safe. Make it in a process that has joined.
    """

    def __init__(self) -> None:
        self._ended = Counter(*metrics.TASKS, ["task", "state"], registry=None)
        self._duration = Histogram(*metrics.TASK_DURATION, ["task"], buckets=_BUCKETS, registry=None)
        self._in_progress = Gauge(
            *metrics.TASKS_IN_PROGRESS, ["task"], multiprocess_mode="livesum", registry=None
        )
        self._exceptions = Counter(*metrics.TASK_EXCEPTIONS, ["task", "exception"], registry=None)
        # When each task that runs began, by its id and thread (or greenlet).
        self._running: dict[tuple[Hashable, int], float] = {}
        self._next_check = 0.0

    def begin(self, identity: Hashable, task: str) -> None:
        """Note that the task with *identity* begins, in this thread."""
        # `increase()` sees the first failure of a task only if the series was there before.
        self._ended.labels(task, FAILURE)
        self._ended.labels(task, SUCCESS)
        self._in_progress.labels(task).inc()
        self._running[identity, threading.get_ident()] = perf_counter()

    def runs(self, identity: Hashable) -> bool:
        """Return whether the task with *identity* runs in this thread."""
        return (identity, threading.get_ident()) in self._running

    def end(self, identity: Hashable, task: str, state: str | None) -> None:
        """Count a task that `begin` was called for, in this thread; *state* is None if somebody else counts it."""
        began = self._running.pop((identity, threading.get_ident()), None)
        if began is None:
            return
        self._in_progress.labels(task).dec()
        self._duration.labels(task).observe(perf_counter() - began)
        if state is not None:
            self.count(task, state)
        if monotonic() >= self._next_check:
            self._next_check = monotonic() + _CHECK_SECONDS
            current_slot.check()

    def count(self, task: str, state: str) -> None:
        """Count a task that has ended in *state*, or never began."""
        self._ended.labels(task, state).inc()

    def count_exception(self, task: str, exception: BaseException) -> None:
        self._exceptions.labels(task, type(exception).__name__[: metrics.LONGEST_LABEL]).inc()
