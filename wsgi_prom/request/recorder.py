"""
The recording of requests: from what the middleware saw to columns of the process's slot.
"""

# Rule 1: nothing is looked up by name on the way of a request: one table for its labels, one row for its figures.
# Rule 2: columns are looked up and stored to under the current slot's lock, in one go: a slot that is claimed meanwhile, by
#         another thread, moves what was recorded before, and nothing between.

from __future__ import annotations

import logging
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom import metrics
from wsgi_prom.request import schemas, signals
from wsgi_prom.request.headers import may_lack_body
from wsgi_prom.request.input import NO_BODY
from wsgi_prom.request.rows import Rows, columns_of, in_progress
from wsgi_prom.request.unshared import warn_unshared
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.file_format import counter
from wsgi_prom.store.label_limit import FOLDED, LabelSets

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.request import MeasuredRequest
    from wsgi_prom.request.rows import Key, Row
    from wsgi_prom.request.schemas import Where
    from wsgi_prom.settings import Settings
    from wsgi_prom.store.file_format import Schema
    from wsgi_prom.store.slots import Columns, Slot

log = logging.getLogger("wsgi_prom")

_STORAGE: Final = "storage"

# How long a file that somebody has removed may be missed, and a full disk be thought full.
_LOOK_SECONDS: Final = 1.0


class Recorder:
    """
    Records requests in the process's slot.

    Thread and fork safe.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.times_first_byte = settings.first_byte
        self.counts_received = metrics.REQUEST_SIZE[0] not in settings.disable
        self.counts_sent = metrics.RESPONSE_SIZE[0] not in settings.disable
        self.counts_queue = metrics.QUEUE[0] not in settings.disable
        self._extra = schemas.ExtraLabels(settings)
        self.asked = self._extra.asked
        self._limit = settings.label_limit
        self.bounds = settings.buckets
        self._queue_bounds = settings.queue_buckets
        request = schemas.request_schema(settings)
        self._request = request.schema
        self.received_column = request.received
        self.sent_column = request.sent
        self._first_byte = request.first_byte
        self._in_progress = schemas.in_progress_schema(settings)
        self.counts_in_progress = self._in_progress is not None
        self._untimed = schemas.untimed_schema(settings)
        self._exception = schemas.exception_schema(settings)
        self._aborted = schemas.aborted_schema(settings)
        self._queue = schemas.queue_schema(settings)
        self._dropped = counter(*metrics.DROPPED, ("metric",))
        self._errors = counter(*metrics.ERRORS, ("stage",))
        self._own = {self._dropped, self._errors}  # whose labels are names of ours
        self._rows = Rows(
            (self._in_progress, self._request, self._untimed, self._exception, self._aborted, self._queue,
             self._dropped, self._errors)
        )  # fmt: skip
        # The row of a request by what it says of itself: method, route (with the labels that are asked for) and
        # status. Three look-ups take a third less than one by a tuple, which has to be made and hashed.
        self.requests: dict[str, dict[Any, dict[str, Columns]]] = {}
        # The same for responses that may lack a body. Apart, so that the fast path misses them: `leave` knows their size.
        self._bodiless: dict[str, dict[Any, dict[str, Columns]]] = {}
        self._known_requests = 0
        self.serving = in_progress(self._in_progress)
        self.look_at = 0.0
        self._slot: Slot | None = None
        self._label_sets = LabelSets(None, self._limit)
        self._logged: set[str] = set()
        current_slot.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Record into *slot* from now on; see `wsgi_prom.store.bindings.Binding`."""
        if not keep:
            self._rows.clear()
        wanted: list[Key] = [(self._in_progress, ())] if self._in_progress and self.serving.shown else []
        if slot.path is not None:
            # It tells of a lack of space, for which there may be no space by then.
            wanted.append((self._errors, (_STORAGE,)))
        self._swap({key: slot.row(*key) for key in [*wanted, *self._rows.known()]})
        if slot is not self._slot:
            self._label_sets.close()
            self._label_sets = LabelSets(slot.path, self._limit, slot.owner)
            self._slot = slot

    def show_in_progress(self) -> None:
        """Show how many requests are in progress from now on, as a row of the slot."""
        if self._in_progress is not None and not self.serving.shown:
            self.serving.shown = True
            self._rows.find(self._in_progress, ())
            with current_slot.lock:
                self.serving.move(self._rows.get(self._in_progress, ()))

    def count(  # noqa: C901 - a request has so many figures
        self, request: MeasuredRequest, where: Where, status: str, seconds: float
    ) -> bool:
        """
        Count *request*, which is over after *seconds*, and no longer in progress.

        Returns False, and does nothing, in a process that was forked since: the request is the parent's.
        """
        lock = request.token  # the current slot's when the request began
        if lock is not current_slot.lock or not current_slot.alive[1]:
            return False
        bounds, method, sent, gauge = self.bounds, request.method, request.sent, self.serving
        body = getattr(request, "received", NO_BODY)
        received = None if body is None else body.size
        first_byte = None
        if self.times_first_byte and sent:
            # Where it is not known, all went out in one chunk, now.
            first_byte = getattr(request, "first_byte", seconds)
        first_bucket = 0 if first_byte is None else bisect_left(bounds, first_byte)
        bucket = 1 + bisect_left(bounds, seconds)
        while True:
            table = self._table(method, status)
            with lock:
                if request.token is None:
                    return False  # another thread has dismissed it meanwhile
                row = table.get(method, {}).get(where, {}).get(status)
                if row is not None:
                    row[0] += seconds
                    row[bucket] += 1.0
                    if sent:
                        row[self.sent_column] += sent
                    if received:
                        row[self.received_column] += received
                    elif received is None:
                        row[self.received_column + 1] += 1.0
                    if first_byte is not None:
                        row[self._first_byte] += first_byte
                        row[self._first_byte + 1 + first_bucket] += 1.0
                    if self.counts_in_progress:
                        gauge.columns[0] = gauge.count = gauge.count - 1.0
                    request.token = None
                    return True
            method, where, status = self._meet(method, where, status)

    def count_untimed(self, request: MeasuredRequest, where: Where, status: str) -> bool:
        """Count *request*, without its duration and sizes. Returns False in a process that was forked since."""
        if request.token is not current_slot.lock or not current_slot.alive[1]:
            return False
        self.serving.dismiss(request)
        self._count_at(self._untimed, request.method, where, status[:3])
        return True

    def count_exception(self, method: str, where: Where, exception: type[BaseException]) -> None:
        """Count an exception of a request."""
        self._count_at(self._exception, method, where, exception.__name__)

    def count_aborted(self, method: str, where: Where) -> None:
        """Count a request whose response was closed before its end."""
        self._count_at(self._aborted, method, where)

    def _count_at(self, schema: Schema | None, method: str, where: Where, *more: str) -> None:
        if schema is not None:
            route, *extra = self._extra.place(where)
            self._count(schema, (schemas.registered(method), route, *more, *extra))

    def observe_queue(self, seconds: float) -> None:
        """Count that a request waited *seconds* before it got here."""
        if self._queue is not None:
            row = self._rows.find(self._queue, ())
            with current_slot.lock:
                columns, index = self._rows.get(self._queue, ()) or row
                columns[index] += seconds
                columns[index + 1 + bisect_left(self._queue_bounds, seconds)] += 1.0

    def fail(self, stage: str) -> None:
        """Count a failure of ours in the current except block, and log the first one of *stage*. Never raises."""
        try:
            if stage not in self._logged:
                self._logged.add(stage)
                log.exception(  # noqa: LOG004 - called in one
                    "wsgi_prom failed in stage %s; the request went on, and later failures are only counted",
                    stage,
                )
            self._count(self._errors, (stage,))
        except Exception:
            log.debug("a failure of wsgi_prom could not be counted", exc_info=True)

    def _count(self, schema: Schema, labels: tuple[str, ...]) -> None:
        if not current_slot.alive[0]:
            current_slot.renew()
        labels = self._bounded(schema, labels)
        row = self._rows.find(schema, labels)
        with current_slot.lock:
            columns, index = self._rows.get(schema, labels) or row
            columns[index] += 1.0

    def _meet(self, method: str, where: Where, status: str) -> tuple[str, Where, str]:
        """Return what a request is looked up by in `requests` that was not found there: it is there from now on."""
        self.show_in_progress()
        route, *extra = self._extra.place(where)
        labels = (schemas.registered(method), route, status[:3], *extra)
        if self.settings.status_class:
            labels = (*labels, status[:1] + "xx")
        bounded = self._bounded(self._request, labels)
        self._rows.find(self._request, bounded)
        counted = bounded[0], self._extra.where(bounded), bounded[2]
        with current_slot.lock:
            row = self._rows.get(self._request, bounded)
            if row is None:  # only in a child that was forked meanwhile
                return counted
            self._know(counted, row)
            # Not what is beyond the limit, of which each is counted, nor a method that a client has made up.
            if bounded is labels and labels[0] == method and self._known_requests < 4 * self._limit:
                self._know((method, where, status), row)
        return counted

    def _know(self, request: tuple[str, Any, str], row: Row) -> None:
        method, where, status = request
        rows = self._table(method, status).setdefault(method, {}).setdefault(where, {})
        self._known_requests += status not in rows
        rows[status] = columns_of(row, self._request.width)

    def _table(self, method: str, status: str) -> dict[str, dict[Any, dict[str, Columns]]]:
        return self._bodiless if may_lack_body(method, status) else self.requests

    def _bounded(self, schema: Schema, labels: tuple[str, ...]) -> tuple[str, ...]:
        """
        Return *labels*, or what stands for those beyond the limit.

        The values of callables go first, within a limit of its own: a client that makes them up takes no label sets
        from routes.
        """
        name = schema.metrics[0].name
        if (schema, labels) in self._rows or schema in self._own or self._label_sets.allow(name, labels):
            return labels
        self._count(self._dropped, (name,))
        if self.asked:
            labels = schemas.folded(schema, labels, self._extra.asked_names)
            if (schema, labels) in self._rows or self._label_sets.allow(name + FOLDED, labels):
                return labels
        return schemas.folded(schema, labels)

    def look_after(self, now: float, environ: WSGIEnvironment) -> None:
        """Check the slot, connect frameworks' signals, warn of unshared processes. *now* is when the request of *environ* began."""
        self.look_at = now + _LOOK_SECONDS
        signals.connect()
        for _ in range(current_slot.look_after()):
            self._count(self._errors, (_STORAGE,))
        warn_unshared(environ)

    def _swap(self, fresh: dict[Key, Row]) -> None:
        self.requests.clear()
        self._bodiless.clear()
        self._known_requests = 0
        self._rows.move(fresh)
        if self._in_progress is not None:
            self.serving.move(self._rows.get(self._in_progress, ()))
