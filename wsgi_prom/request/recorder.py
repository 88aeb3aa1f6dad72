"""
Recording of requests: `begin` when one comes, `record` when its response is complete, `end` for all that is unusual.

1. Nothing raises into the application: a failure is counted, logged once for each stage, and kept here.
2. `record` is the usual way: columns that are known, and stores without a lock. Nothing is called between its look at
   `guarded` and its last store, so that no other thread and no signal handler runs in between (store/unlocked.py).
3. `end` is the slow path: new labels, no start_response, exceptions, a request of the parent process, stores that need the
   lock. It counts a request once, whoever calls it, and however often.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.request import signals
from wsgi_prom.request.routes import REQUEST
from wsgi_prom.request.rows import STORAGE, Rows
from wsgi_prom.request.unshared import warn_unshared
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.request import MeasuredRequest
    from wsgi_prom.request.schemas import Where
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

# How long a removed file may go unnoticed, and a full disk be thought full.
_LOOK_SECONDS: Final = 1.0

_alive: Final = current_slot.alive


class Recorder:
    """Records the requests of all middlewares with the same *settings*. Thread and fork safe."""

    def __init__(self, settings: Settings) -> None:
        self.asked = tuple(value for _, value in settings.labels if callable(value))
        self.rows = Rows(settings)
        self.times_first_byte = settings.first_byte
        self.serving = self.rows.serving
        self.table = self.rows.requests
        self.counts_in_progress = metrics.IN_PROGRESS[0] not in settings.disable
        self.counts_received = metrics.REQUEST_SIZE[0] not in settings.disable
        self.counts_sent = metrics.RESPONSE_SIZE[0] not in settings.disable
        self.counts_queue = metrics.QUEUE[0] not in settings.disable
        self.bounds = settings.buckets
        self._queue_bounds = settings.queue_buckets
        columns = self.rows.schemas.request
        self._received_column, self.sent_column = columns.received, columns.sent
        self._first_byte_column = columns.first_byte
        self.look_at = 0.0
        self._logged: set[str] = set()
        self.record = record_of(self)

    def end(
        self,
        request: MeasuredRequest,
        chunk: bytes = b"",
        *,
        failed: bool = False,
        exception: type[BaseException] | None = None,
        aborted: bool = False,
    ) -> None:
        """
        Count *request*, whose last *chunk* goes out now, unless that was done: by its status, or as a 500 if it has *failed*.

        With the *exception* that the application raised, or as *aborted*. Not in a process that was forked since the
        request began: it is the parent's there.
        """
        if getattr(request, "token", None) is None:
            return
        try:
            seconds = perf_counter() - request.started
            if isinstance(chunk, bytes):
                request.sent += len(chunk)
            status = request.final_status(failed)
            where = request.place()
            request.leave_environ()
            if request.token is not current_slot.lock or not _alive[1]:
                return
            stored = self._store(request, where, status, seconds)
            if stored is None:
                return
            self._count_more(request, *stored)
            exception = getattr(request, "noted", None) or exception
            schemas = self.rows.schemas
            if exception is not None:
                self.rows.count(schemas.exception, request.method, where, exception.__name__)
            elif aborted:
                self.rows.count(schemas.aborted, request.method, where)
        except Exception:
            self.fail("record")
        finally:
            # Not counted: it failed, a signal handler raised meanwhile, or it is the parent's.
            if request.token is not None:
                self.serving.dismiss(request)

    def dismiss(self, request: MeasuredRequest) -> None:
        """Do not count *request*."""
        request.leave_environ()
        self.serving.dismiss(request)

    def fail(self, stage: str) -> None:
        """Count a failure of ours in the current except block, and log the first one of *stage*. Never raises."""
        try:
            if stage not in self._logged:
                self._logged.add(stage)
                log.exception(  # noqa: LOG004 - called in one
                    "wsgi_prom failed in stage %s; the request went on, and later failures are only counted",
                    stage,
                )
            self._count_error(stage)
        except Exception:
            log.debug("a failure of wsgi_prom could not be counted", exc_info=True)

    def _store(
        self, request: MeasuredRequest, where: Where, status: str, seconds: float
    ) -> tuple[str, Where, str] | None:
        """
        Store the figures that every request has.

        Returns the method, route and status of the row, None if another thread has dismissed *request* meanwhile.
        """
        if request.is_session(status):  # which is counted and not timed: it lasts as long as its connection
            self.serving.dismiss(request)
            self.rows.count(self.rows.schemas.untimed, request.method, where, status[:3])
            return request.method, where, status
        amounts = {
            0: seconds,
            1 + bisect_left(self.bounds, seconds): 1.0,
            self.sent_column: float(request.sent),
        }
        if self.times_first_byte and request.sent:
            # Where it is not known, all went out in one chunk, now.
            first_byte = getattr(request, "first_byte", seconds)
            amounts[self._first_byte_column] = first_byte
            amounts[self._first_byte_column + 1 + bisect_left(self.bounds, first_byte)] = 1.0
        method, serving = request.method, self.serving
        while True:
            table = self.rows.table(method, status)
            with current_slot.lock:
                if request.token is not current_slot.lock:
                    return None
                row = table.get(method, {}).get(where, {}).get(status)
                if row is not None:
                    for column, amount in amounts.items():
                        row[column] += amount
                    if self.counts_in_progress:
                        serving.columns[0] = serving.count = serving.count - 1.0
                    request.token = None
                    return method, where, status
            method, where, status = self.rows.meet(method, where, status)

    def _count_more(self, request: MeasuredRequest, method: str, where: Where, status: str) -> None:
        """Count the body of *request* that was read, and its time in the proxy's queue. Its row is known. Never raises."""
        try:
            body, waited = getattr(request, "received", None), getattr(request, "waited", None)
            if body is not None and not request.is_session(status):
                # A body whose size is not known is told by the column behind.
                column, amount = self._received_column, float(body.size)
                if not body.known:
                    column, amount = column + 1, 1.0
                self.rows.add_to_request(method, where, status, column, amount)
            schema = self.rows.schemas.queue
            if waited is not None and schema is not None:
                self.rows.add(schema, (), {0: waited, 1 + bisect_left(self._queue_bounds, waited): 1.0})
        except Exception:
            self.fail("record")

    def _count_error(self, stage: str) -> None:
        self.rows.add(self.rows.schemas.errors, (stage,), {0: 1.0})

    def look_after(self, now: float, environ: WSGIEnvironment) -> None:
        """Once a second, check the slot, connect frameworks' signals, warn of unshared processes. Claim a slot if there is none."""
        if now > self.look_at:
            self.look_at = now + _LOOK_SECONDS
            signals.connect()
            for _ in range(current_slot.look_after()):
                self._count_error(STORAGE)
            warn_unshared(environ)
        if not _alive[0]:
            current_slot.renew()

    def begin_oddly(self, request: MeasuredRequest, error: Exception) -> None:
        """Begin *request*, after an *error* in the current except block."""
        request.has_more = None
        request.method = request.environ.get("REQUEST_METHOD", "")
        request.entered = request.environ.get("PATH_INFO", "")
        # No failure of ours: uWSGI calls the application, with no method and path, for a request of two empty lines too.
        if not isinstance(error, KeyError):
            self.fail("enter")


def begin_of(recorder: Recorder) -> Callable[[MeasuredRequest, WSGIEnvironment], None]:
    """Return a function, for one middleware, that begins to measure a request, which has come with an environ."""
    serving, has_more = recorder.serving, None if recorder.times_first_byte else False
    counts_in_progress, counts_queue = recorder.counts_in_progress, recorder.counts_queue
    counts_received = recorder.counts_received
    knows_file_wrapper = False

    def begin(request: MeasuredRequest, environ: WSGIEnvironment) -> None:
        nonlocal knows_file_wrapper
        request.environ = environ
        request.sent = 0
        request.has_more = has_more
        request.started = started = perf_counter()
        try:
            if not knows_file_wrapper:  # kept, as a look at each request's takes 300 instructions
                knows_file_wrapper = request.see_file_wrapper()
            if counts_received and ("CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ):
                request.measure_input()
            if counts_queue and ("HTTP_X_REQUEST_START" in environ or "HTTP_X_QUEUE_START" in environ):
                request.measure_queue()
            if "HTTP_UPGRADE" in environ:
                request.see_upgrade()
            if started > recorder.look_at or not _alive[0]:
                recorder.look_after(started, environ)
            # Kept now: the application may clear its environ.
            request.method = environ["REQUEST_METHOD"]
            request.entered = environ["PATH_INFO"]
        except Exception as error:
            recorder.begin_oddly(request, error)
        if current_slot.guarded:
            serving.enter(request)
        else:
            if counts_in_progress:
                serving.columns[0] = serving.count = serving.count + 1.0
            request.token = current_slot.lock

    return begin


def record_of(recorder: Recorder) -> Callable[[MeasuredRequest, bytes], None]:
    """Return the function that counts a request, whose response is complete, before the server gets its last chunk."""
    table, serving, asked, bounds = recorder.table, recorder.serving, recorder.asked, recorder.bounds
    first_bound, sent_column = recorder.bounds[0], recorder.sent_column
    counts_sent, counts_in_progress = recorder.counts_sent, recorder.counts_in_progress

    def record(request: MeasuredRequest, chunk: bytes) -> None:
        try:
            sent = request.sent + len(chunk)
            seconds = perf_counter() - request.started
            # Most requests are of the first bucket: the look at it saves 900 of 16,000 instructions, 5 %.
            bucket = 1 if seconds <= first_bound else 1 + bisect_left(bounds, seconds)
            where = request.place() if asked else request.route
            has_more = request.has_more
            # The token last: another thread may have dismissed the request, for a middleware inside.
            if (
                has_more is not None
                and _alive[1]
                and not current_slot.guarded
                and request.token is current_slot.lock
            ):
                row = table[request.method][where][request.status]
                row[0] += seconds
                row[bucket] += 1.0
                if counts_sent:
                    row[sent_column] += sent
                if counts_in_progress:
                    serving.columns[0] = serving.count = serving.count - 1.0
                request.token = None
                request.environ[REQUEST] = None
                if has_more:
                    recorder._count_more(request, request.method, where, request.status)
                return
        except Exception:  # noqa: S110 - new labels, no start_response, a chunk that is not bytes
            pass
        recorder.end(request, chunk)

    return record
