"""
The recording of requests: from what the middleware saw to columns of the process's slot.
"""

# Rule 1: nothing is looked up by name on the way of a request: one dict for its labels, one block for its figures.
# Rule 2: columns are looked up and stored to under the lease's lock, in one go: a slot that is claimed meanwhile, by
#         another thread, moves what was recorded before, and nothing between.

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from wsgi_prom import catalog, schemas
from wsgi_prom.storage import format  # noqa: A004 - the module of that name is the room
from wsgi_prom.storage.labels import LabelSets
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from wsgi_prom.settings import Settings
    from wsgi_prom.storage.format import Schema
    from wsgi_prom.storage.slots import Columns, Slot

    Block = tuple[Columns, int]
    Key = tuple[Schema, tuple[str, ...]]

log = logging.getLogger("wsgi_prom")

_alive: Final = lease.alive

_STORAGE: Final = "storage"

# How long a file that somebody has removed may be missed, and a full disk be thought full.
_LOOK_SECONDS: Final = 1.0

# The requests that this process is serving, by the schema of the gauge: several recorders may share it.
_entered: Final[dict[Schema | None, list[float]]] = {}


class Recorder:
    """
    Records requests in the process's slot.

    Thread and fork safe.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.more_labels = bool(settings.labels)
        self.times_first_byte = settings.first_byte
        self._limit = settings.label_limit
        self._bounds = settings.buckets
        self._queue_bounds = settings.queue_buckets
        request = schemas.request_schema(settings)
        self._request = request.schema
        self._received = request.received
        self._sent = request.sent
        self._first_byte = request.first_byte
        self._in_progress = schemas.in_progress_schema(settings)
        self._exception = schemas.exception_schema(settings)
        self._aborted = schemas.aborted_schema(settings)
        self._queue = schemas.queue_schema(settings)
        self._dropped = format.counter(*catalog.DROPPED, ("metric",))
        self._errors = format.counter(*catalog.ERRORS, ("stage",))
        # Whose labels are names of ours.
        self._own = {self._dropped, self._errors}
        self._blocks: dict[Schema, dict[tuple[str, ...], Block]] = {
            schema: {}
            for schema in (self._in_progress, self._request, self._exception, self._aborted, self._queue,
                           self._dropped, self._errors)
            if schema is not None
        }  # fmt: skip
        # The block of every request, without a look-up by schema: by its labels, and by what a request says of itself.
        self._requests: dict[tuple[str, ...], Block] = {}
        self._busy: Block = ([0.0], 0)
        # Not read back from the slot: what is lost there while requests are under way would make it negative.
        self._entered = _entered.setdefault(self._in_progress, [0.0])
        self._look_at = 0.0
        self._label_sets = LabelSets(None, self._limit)
        self._logged: set[str] = set()
        lease.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Record into *slot* from now on; see `wsgi_prom.storage.lease.Binding`."""
        label_sets = LabelSets(slot.path, self._limit, slot.owner)
        fresh: dict[Key, Block] = {}
        wanted: list[Key] = [] if self._in_progress is None else [(self._in_progress, ())]
        if slot.path is not None:
            # It tells of a lack of space, for which there may be no space by then.
            wanted.append((self._errors, (_STORAGE,)))
        while True:
            # Outside of the lock, which is never held across a system call: a thread may meet new labels meanwhile.
            fresh.update({key: slot.block(*key) for key in wanted})
            with lease.lock:
                wanted = [key for key in self._known() if key not in fresh] if keep else []
                if not wanted:
                    self._swap(fresh, keep=keep)
                    break
        self._label_sets.close()
        self._label_sets = label_sets

    def forget(self) -> None:
        """See `wsgi_prom.storage.lease.Binding`. Nothing is kept here that the columns do not hold."""

    def settle(self, slot: Slot) -> None:
        """Bind what *slot* had no space for, as far as it has now."""
        kept = [key for key in self._known() if isinstance(self._blocks[key[0]][key[1]][0], array)]
        fresh = {key: slot.block(*key) for key in kept}
        with lease.lock:
            self._swap(fresh, keep=True)

    def enter(self, now: float) -> object:
        """Count a request as in progress, *now* by time.perf_counter, and return the token that `leave` asks for."""
        if now > self._look_at:
            self._look_after(now)
        if not _alive[0]:
            lease.renew()
        lock = lease.lock
        entered = self._entered
        with lock:
            entered[0] += 1.0
            columns, index = self._busy
            columns[index] = entered[0]
        return lock

    def leave(
        self,
        token: object,
        request: tuple[str, ...],
        seconds: float,
        sent: int,
        received: int | None,
        first_byte: float | None,
    ) -> None:
        """
        Count a request that is over: *request* are its method, route, status and extra labels, *seconds* its duration.

        *sent* and *received* are the bytes of the two bodies, *received* None where that is not known; *first_byte*
        are seconds. Does nothing in a process that was forked since `enter`: the request is the parent's.
        """
        lock = lease.lock
        if token is not lock or not _alive[1]:
            return
        bounds = self._bounds
        # Most requests are of the first bucket.
        bucket = 1 if seconds <= bounds[0] else 1 + bisect_left(bounds, seconds)
        labels = request
        while True:
            with lock:
                block = self._requests.get(labels)
                if block is not None:
                    self._entered[0] -= 1.0
                    columns, index = self._busy
                    columns[index] = self._entered[0]
                    columns, index = block
                    columns[index] += seconds
                    columns[index + bucket] += 1.0
                    if sent:
                        columns[index + self._sent] += sent
                    if received:
                        columns[index + self._received] += received
                    elif received is None:
                        columns[index + self._received + 1] += 1.0
                    if first_byte is not None:
                        index += self._first_byte
                        columns[index] += first_byte
                        columns[index + 1 + bisect_left(bounds, first_byte)] += 1.0
                    return
            labels = self._meet(request, token)

    def dismiss(self, token: object) -> None:
        """Take a request out of those in progress, and do not count it."""
        lock = lease.lock
        if token is lock and _alive[1]:
            with lock:
                columns, index = self._busy
                self._entered[0] -= 1.0
                columns[index] = self._entered[0]

    def count_exception(self, request: tuple[str, ...], exception: type[BaseException]) -> None:
        """Count an exception of *request*, which is as for `leave`."""
        if self._exception is not None:
            method, route, _, *extra = request
            self._count(self._exception, (schemas.registered(method), route, exception.__name__, *extra))

    def count_aborted(self, request: tuple[str, ...]) -> None:
        """Count *request*, which is as for `leave`, as one whose response was closed before its end."""
        if self._aborted is not None:
            method, route, _, *extra = request
            self._count(self._aborted, (schemas.registered(method), route, *extra))

    def observe_queue(self, seconds: float) -> None:
        """Count that a request waited *seconds* before it got here."""
        if self._queue is not None:
            block = self._block(self._queue, ())
            with lease.lock:
                columns, index = self._blocks[self._queue].get((), block)
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
        labels = self._bounded(schema, labels)
        block = self._block(schema, labels)
        with lease.lock:
            columns, index = self._blocks[schema].get(labels, block)
            columns[index] += 1.0

    def _meet(self, request: tuple[str, ...], token: object) -> tuple[str, ...]:
        """Return the labels that *request* is counted by, whose block is known from now on."""
        try:
            method, route, status, *extra = request
            labels = (schemas.registered(method), route, status[:3], *extra)
            if self.settings.status_class:
                labels = (*labels, status[:1] + "xx")
            bounded = self._bounded(self._request, labels)
            self._block(self._request, bounded)
        except Exception:
            self.dismiss(token)
            raise
        with lease.lock:
            block = self._blocks[self._request].get(bounded)
            if block is None:  # only in a child that was forked meanwhile
                return bounded
            self._requests[bounded] = block
            # Not what is beyond the limit, of which each is counted, nor a method that a client has made up.
            if bounded is labels and labels[0] == method and len(self._requests) < 4 * self._limit:
                self._requests[request] = block
        return bounded

    def _bounded(self, schema: Schema, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return *labels*, or what stands for those beyond the limit."""
        name = schema.metrics[0].name
        if labels in self._blocks[schema] or schema in self._own or self._label_sets.allow(name, labels):
            return labels
        self._count(self._dropped, (name,))
        return schemas.folded(schema, labels)

    def _block(self, schema: Schema, labels: tuple[str, ...]) -> Block:
        while True:
            block = self._blocks[schema].get(labels)
            if block is not None:
                return block
            slot = lease.slot
            block = slot.block(schema, labels)
            with lease.lock:
                # Another thread may have claimed one meanwhile, and moved what it knew of.
                if slot is lease.slot:
                    self._blocks[schema][labels] = block

    def _look_after(self, now: float) -> None:
        self._look_at = now + _LOOK_SECONDS
        for _ in range(lease.look_after()):
            self._count(self._errors, (_STORAGE,))

    def _known(self) -> list[Key]:
        return [(schema, labels) for schema, blocks in self._blocks.items() for labels in blocks]

    def _swap(self, fresh: dict[Key, Block], *, keep: bool) -> None:
        if not keep:
            self._entered[0] = 0.0
            for blocks in self._blocks.values():
                blocks.clear()
        self._requests.clear()
        for (schema, labels), block in fresh.items():
            old = self._blocks[schema].get(labels)
            if old is not None and old[0] is not block[0]:
                _move(old, block, schema.width)
            self._blocks[schema][labels] = block
        if self._in_progress is not None:
            columns, index = self._busy = self._blocks[self._in_progress][()]
            columns[index] = self._entered[0]


def _move(old: Block, new: Block, width: int) -> None:
    (source, start), (columns, index) = old, new
    for offset in range(width):
        value = source[start + offset]
        # Another recorder may have the same block: it has nothing left to bring. First: both may be the same memory.
        source[start + offset] = 0.0
        columns[index + offset] += value
