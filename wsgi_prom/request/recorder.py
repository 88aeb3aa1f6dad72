"""
The slow path, `Recorder.end`, and what the middlewares with the same settings share.

1. Nothing raises into the application: a failure is counted, logged once for each stage, and kept here.
2. `end` counts a request with new labels, without start_response, with an exception or another of its Extras, and wherever
   a store needs the lock. It counts a request once, whoever calls it, and however often.
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.request import cpu, signals
from wsgi_prom.request.garbage import collections
from wsgi_prom.request.rows import STORAGE, Rows
from wsgi_prom.request.unshared import warn_unshared
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.extras import Extras
    from wsgi_prom.request.request import MeasuredRequest
    from wsgi_prom.request.row_schemas import RouteLabels
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

# The pause between two calls of `check`: a removed file may go unnoticed for so long.
_CHECK_SECONDS: Final = 1.0

_fork_guard: Final = current_slot.fork_guard


class Recorder:
    """Records the requests of all middlewares with the same *settings*. Thread and fork safe."""

    def __init__(self, settings: Settings) -> None:
        # The callables among the labels that the settings add: each request calls them.
        self.label_callables = tuple(value for _, value in settings.labels if callable(value))
        self.rows = Rows(settings)
        self.in_progress = self.rows.in_progress
        self.times_first_byte = settings.first_byte
        self.times_cpu = settings.cpu
        self.keeps_exemplars = settings.exemplars
        self.counts_in_progress = metrics.IN_PROGRESS[0] not in settings.disable
        self.counts_received = metrics.REQUEST_SIZE[0] not in settings.disable
        self.counts_sent = metrics.RESPONSE_SIZE[0] not in settings.disable
        self.counts_queue = metrics.QUEUE[0] not in settings.disable
        self.bounds = settings.buckets
        self.columns = self.rows.schemas.request
        self.queue_bounds = settings.queue_buckets
        self.next_check = 0.0
        self._logged: set[str] = set()

    def end(self, request: MeasuredRequest, chunk: bytes = b"", *, aborted: bool = False) -> None:
        """
        Count *request*, whose last *chunk* goes out now, unless that was done.

        Not in a process that was forked since the request began: it is the parent's there. Never raises.
        """
        if getattr(request, "token", None) is None:
            return
        try:
            seconds = perf_counter() - request.started
            if isinstance(chunk, bytes):
                request.sent += len(chunk)
            status, labels = request.final_status(), request.labels()
            request.leave_environ()
            if request.token is current_slot.lock and _fork_guard[1]:
                self._count(request, labels, status, seconds, aborted=aborted)
        except Exception:
            self.report_failure("record")
        finally:
            if request.own_extras is not None:
                request.own_extras.trace = None
            # Not counted: it failed, a signal handler raised meanwhile, or it is the parent's.
            if request.token is not None:
                self.in_progress.dismiss(request)

    def _count(
        self, request: MeasuredRequest, labels: RouteLabels, status: str, seconds: float, *, aborted: bool
    ) -> None:
        method, schemas = request.method, self.rows.schemas
        cpu_seconds = cpu.used(request.extras.cpu)
        if request.is_session(status):  # counted and not timed: it lasts as long as its connection
            self.in_progress.dismiss(request)
            self.rows.count(schemas.untimed, method, labels, status[:3], seconds=seconds)
        else:
            counted = self.rows.count_request(request, labels, status, self._amounts(request, seconds))
            if counted is None:
                return
            if cpu_seconds is not None:
                self.rows.count(schemas.cpu, method, labels, seconds=cpu_seconds)
            if request.extras.trace is not None:
                self.rows.keep_exemplar(counted, seconds, request.extras.trace)
        self._observe_queue(request.extras)
        exception = request.extras.exception
        if exception is not None:
            self.rows.count(schemas.exception, method, labels, exception.__name__)
        elif aborted:
            self.rows.count(schemas.aborted, method, labels)

    def _amounts(self, request: MeasuredRequest, seconds: float) -> dict[int, float]:
        """Return what the row of *request* gets, by its column."""
        columns, received = self.columns, request.extras.received
        amounts = {
            0: seconds,
            1 + bisect_left(self.bounds, seconds): 1.0,
            columns.received: received.size,
            columns.unknown: received.unknown,
            columns.sent: request.sent,
        }
        if self.times_first_byte and request.sent:
            first_byte = request.extras.first_byte
            if first_byte is None:  # all went out in one chunk, now
                first_byte = seconds
            amounts[columns.first_byte] = first_byte
            amounts[columns.first_byte + 1 + bisect_left(self.bounds, first_byte)] = 1.0
        return amounts

    def _observe_queue(self, extras: Extras) -> None:
        """Count the seconds that a request waited in the proxy's queue, if they are known. Never raises."""
        try:
            if extras.waited is not None:
                self.rows.observe_queue(extras.waited, extras.queue_bucket)
        except Exception:
            self.report_failure("record")

    def dismiss(self, request: MeasuredRequest) -> None:
        """Do not count *request*."""
        request.leave_environ()
        self.in_progress.dismiss(request)

    def report_failure(self, stage: str) -> None:
        """Count a failure of ours in the current except block, and log the first one of *stage*. Never raises."""
        try:
            if stage not in self._logged:
                self._logged.add(stage)
                log.error(
                    "wsgi_prom failed in stage %s; the request went on, and later failures are only counted",
                    stage,
                    exc_info=sys.exception(),
                )
            self._count_error(stage)
        except Exception:
            log.debug("a failure of wsgi_prom could not be counted", exc_info=True)

    def _count_error(self, stage: str) -> None:
        self.rows.add(self.rows.schemas.errors, (stage,), {0: 1.0})

    def check(self, now: float, environ: WSGIEnvironment) -> None:
        """
        Once a second, check the slot, connect frameworks' signals, warn of unshared processes, count garbage collections. Claim
        a slot if there is none.
        """
        if now > self.next_check:
            self.next_check = now + _CHECK_SECONDS
            signals.connect()
            for _ in range(current_slot.check()):
                self._count_error(STORAGE)
            warn_unshared(environ)
            try:
                collections.count(self.rows)
            except Exception:
                self.report_failure("garbage")
        if not _fork_guard[0]:
            current_slot.prepare()
