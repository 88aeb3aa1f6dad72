"""
The rows that requests are recorded into: each label set that this process has met, and its columns in the current slot.

1. Columns are looked up and stored to while the current slot's lock is held, or where no other thread can run in between:
   a slot that is claimed meanwhile moves the values.
2. `Rows.requests` is for `record` (measurement.py): rows by method, route (see RouteLabels) and status as they come. Three
   look-ups cost a third less than one by a tuple. `Rows.count_request` adds to it, and needs no entry itself.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request import row_schemas
from wsgi_prom.request.headers import must_lack_body
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.label_limit import FOLDED, LabelSets
from wsgi_prom.store.text_format import Text
from wsgi_prom.store.texts import texts

if TYPE_CHECKING:
    from wsgi_prom.request.row_schemas import RouteLabels
    from wsgi_prom.settings import Settings
    from wsgi_prom.store.memory_slot import Columns, Slot
    from wsgi_prom.store.schemas import Schema

    Row = tuple[Columns, int]
    Key = tuple[Schema, tuple[str, ...]]

# The label of an error that no space on the disk, or the like, has caused.
STORAGE: Final = "storage"


class InProgress:
    """
    The requests that this process is serving, and the column that shows them (store/in_progress.py).

    *count* is minus their number.
    """

    __slots__ = ("_lock", "columns", "count", "shown")

    def __init__(self) -> None:
        self.columns: Columns = array("d", (0.0,))
        # Not read back from the slot: a value lost there while requests are in progress would make the number negative.
        self.count = 0.0
        # Whether the column is a row of the slot.
        self.shown = False
        self._lock = current_slot.lock

    def move(self, row: Row | None) -> None:
        """Show them in *row* from now on. The caller holds the current slot's lock."""
        # A forked child serves none of its parent's requests.
        if self._lock is not current_slot.lock:
            self._lock, self.count = current_slot.lock, 0.0
        if row is not None:
            self.columns = _columns_of(row, 1)
            self.columns[0] = self.count

    def enter(self, request: Any) -> None:
        """Count *request* as in progress, and give it the current slot's lock as its token."""
        lock = current_slot.lock
        with lock:
            count = self.count = self.count - 1.0
            self.columns[0] = request.started if count == -1.0 else count
            request.token = lock

    def leave(self, request: Any) -> None:
        """Count *request* as no longer in progress. The caller holds the lock that is its token."""
        self.columns[0] = self.count = self.count + 1.0
        request.token = None

    def dismiss(self, request: Any) -> None:
        """Count *request* as no longer in progress, if it is."""
        lock = getattr(request, "token", None)
        if lock is current_slot.lock and current_slot.fork_guard[1]:
            with lock:
                if request.token is not None:  # not counted by another thread meanwhile
                    self.leave(request)
        request.token = None


# Recorders with the same gauge share its number.
_in_progress: Final[dict[Schema | None, InProgress]] = {}


class Rows:
    """
    The rows of one recorder; a `wsgi_prom.store.bindings.Binding`.

    Thread and fork safe.
    """

    def __init__(self, settings: Settings) -> None:
        self.schemas = row_schemas.Schemas(settings)
        self._callable = frozenset(name for name, value in settings.labels if callable(value))
        self._static = tuple(value for _, value in settings.labels if isinstance(value, str))
        self._first_byte = settings.first_byte
        self._bounds = settings.buckets
        self._exemplars = settings.exemplars
        self._limit = settings.label_limit
        self._rows: dict[Schema, dict[tuple[str, ...], Row]] = {schema: {} for schema in self.schemas.all}
        self.requests: dict[str, dict[Any, dict[str, Columns]]] = {}
        # With exemplars, the label set of each row of *requests*.
        self._label_sets_of: dict[tuple[str, RouteLabels, str], tuple[str, ...]] = {}
        self._remembered = 0
        # For `record` too: the row of the time in a proxy's queue, None until there is one.
        self.queue: Any = None
        self.in_progress = _in_progress.setdefault(self.schemas.in_progress, InProgress())
        self._label_sets = LabelSets(None, self._limit)
        self._slot: Slot | None = None
        current_slot.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Record into *slot* from now on; see `Binding`."""
        if not keep:
            for rows in self._rows.values():
                rows.clear()
        wanted = [(schema, labels) for schema, rows in self._rows.items() for labels in rows]
        if self.schemas.in_progress is not None and self.in_progress.shown:
            wanted.append((self.schemas.in_progress, ()))
        if slot.path is not None:
            # Made now: it counts errors for lack of space, and there may be no space for it then.
            wanted.append((self.schemas.errors, (STORAGE,)))
        self._swap({key: slot.row(*key) for key in wanted})
        if slot is not self._slot:
            self._label_sets.close()
            self._label_sets = LabelSets(slot.path, self._limit, slot.owner)
            self._slot = slot

    def show_in_progress(self) -> None:
        """Show the number of requests in progress from now on, as a row of the slot."""
        schema = self.schemas.in_progress
        if schema is not None and not self.in_progress.shown:
            self.in_progress.shown = True
            with current_slot.lock:
                self.in_progress.move(self._row(schema, ()))

    def count_request(
        self, request: Any, labels: RouteLabels, status: str, amounts: dict[int, float]
    ) -> tuple[str, ...] | None:
        """
        Add *amounts*, by their column, to the row of *request*, which is over then.

        Returns the label set of that row; None if another thread has dismissed it meanwhile.
        """
        self.show_in_progress()
        schema, method = self.schemas.request.schema, request.method
        wanted = (*self._labels(method, labels, status[:3]), *self.schemas.of_status(status))
        bounded = self._bounded(schema, wanted)
        with current_slot.lock:
            if request.token is not current_slot.lock:
                return None
            row = self._row(schema, bounded)
            _add(row, amounts)
            self.in_progress.leave(request)
            # Not a label set beyond the limit, which is counted each time, nor a method that a client made up.
            if bounded is wanted and wanted[0] == method and not self._first_byte:
                # Whether the body of a response that may have none was sent, `record` does not know.
                width = self.schemas.request.sent if must_lack_body(method, status) else schema.width
                self._remember(method, labels, status, _columns_of(row, width))
                if self._exemplars and status in self.requests[method][labels]:
                    self._label_sets_of[method, labels, status] = bounded
        return bounded

    def keep_exemplar(self, labels: tuple[str, ...], seconds: float, trace: bytes) -> None:
        """Keep *trace* as the exemplar of a request that took *seconds*, counted in the row of *labels*."""
        bucket = 1 + bisect_left(self._bounds, seconds)
        texts.put((self.schemas.request.schema, labels), bucket, Text(time.time(), seconds, trace))

    def keep_exemplar_of(self, request: Any, seconds: float, trace: bytes) -> None:
        """Do as `keep_exemplar` for *request*, which `record` has counted."""
        labels = self._label_sets_of.get((request.method, request.route, request.status))
        if labels is not None:
            self.keep_exemplar(labels, seconds, trace)

    def count(
        self,
        schema: Schema | None,
        method: str,
        labels: RouteLabels,
        *more: str,
        seconds: float | None = None,
    ) -> None:
        """
        Add 1 to a counter of *method*, the route and extra labels of *labels*, and *more* labels, and *seconds* behind it.
        """
        if schema is not None:
            amounts = {0: 1.0} if seconds is None else {0: 1.0, 1: seconds}
            self.add(schema, self._labels(method, labels, *more), amounts)

    def observe_queue(self, seconds: float, bucket: int) -> None:
        """Count a request that waited *seconds* in a proxy's queue, which belong to the column *bucket*."""
        schema = self.schemas.queue
        if schema is not None:
            self.add(schema, (), {0: seconds, bucket: 1.0})
            with current_slot.lock:
                self.queue = _columns_of(self._row(schema, ()), schema.width)

    def add(self, schema: Schema, labels: tuple[str, ...], amounts: dict[int, float]) -> None:
        """Add *amounts*, by their column, to the row of *labels*."""
        if not current_slot.fork_guard[0]:
            current_slot.prepare()
        labels = self._bounded(schema, labels)
        with current_slot.lock:
            _add(self._row(schema, labels), amounts)

    def _labels(self, method: str, labels: RouteLabels, *more: str) -> tuple[str, ...]:
        """Return the label set of a row: method, route, *more*, and the labels that the settings add."""
        route, *added = (labels,) if isinstance(labels, str) else labels
        return (*self.schemas.labels(method, route), *more, *self._static, *added)

    def _remember(self, method: str, labels: RouteLabels, status: str, columns: Columns) -> None:
        """Let `record` find the row of such requests. The caller holds the lock."""
        rows = self.requests.setdefault(method, {}).setdefault(labels, {})
        # A client may not add statuses, and an application that does is bounded here.
        if status in rows or self._remembered < 4 * self._limit:  # four statuses for each label set
            self._remembered += status not in rows
            rows[status] = columns

    def _bounded(self, schema: Schema, labels: tuple[str, ...]) -> tuple[str, ...]:
        """
        Return *labels*, or their OTHER beyond the limit.

        The values of callables are folded first, and have a limit of their own: a client that makes them up takes no
        label sets from routes.
        """
        known, name = self._rows[schema], schema.metrics[0].name
        if labels in known or schema in self.schemas.unlimited or self._label_sets.allow(name, labels):
            return labels
        self.add(self.schemas.dropped, (name,), {0: 1.0})
        if self._callable:
            labels = row_schemas.folded(schema, labels, self._callable)
            if labels in known or self._label_sets.allow(name + FOLDED, labels):
                return labels
        return row_schemas.folded(schema, labels)

    def _row(self, schema: Schema, labels: tuple[str, ...]) -> Row:
        """Return the row of *labels*, made at the first call. The caller holds the current slot's lock."""
        rows = self._rows[schema]
        row = rows.get(labels)
        if row is None:
            row = rows[labels] = current_slot.row(schema, labels)
        return row

    def _swap(self, fresh: dict[Key, Row]) -> None:
        """Put *fresh* rows in the place of the present ones, with their values. The caller holds the lock."""
        self.requests.clear()
        self._label_sets_of.clear()
        self._remembered = 0
        for (schema, labels), row in fresh.items():
            old = self._rows[schema].get(labels)
            if old is not None and old[0] is not row[0]:
                _move(old, row, schema.width)
            self._rows[schema][labels] = row
        if self.schemas.in_progress is not None:
            self.in_progress.move(self._rows[self.schemas.in_progress].get(()))
        if self.schemas.queue is not None:
            queue = self._rows[self.schemas.queue].get(())
            self.queue = queue and _columns_of(queue, self.schemas.queue.width)


def _add(row: Row, amounts: dict[int, float]) -> None:
    columns, first = row
    for column, amount in amounts.items():
        columns[first + column] += amount


def _columns_of(row: Row, width: int) -> Columns:
    """Return the *width* values of *row* alone: a store needs no addition of its first index then."""
    columns, first = row
    values: memoryview[float] = memoryview(columns)
    return values[first : first + width]


def _move(old: Row, new: Row, width: int) -> None:
    (source, first), (columns, index) = old, new
    columns[index - 1] = min(columns[index - 1], source[first - 1])
    for offset in range(width):
        value = source[first + offset]
        # First, as both may be the same memory. And another recorder may have the same row, with nothing left to move.
        source[first + offset] = 0.0
        columns[index + offset] += value
