"""
The metrics of this package, their names and help texts, and the recording of a request.

The request metrics share one block for each method, route and status: the counter of requests is the sum of the
duration's buckets, so that the two can never disagree, and a request costs one look-up.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from wsgi_prom.storage import format  # noqa: A004 - the module of that name is the room
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from wsgi_prom.settings import Settings
    from wsgi_prom.storage.format import Schema
    from wsgi_prom.storage.slots import Columns, Slot

log = logging.getLogger("wsgi_prom")

OTHER: Final = "OTHER"

# The registry of RFC 9110, 16.1.1, as far as web applications see it: those of RFC 9110 itself, and PATCH (RFC 5789).
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})

REQUESTS: Final = ("http_requests", "Requests, by the status of the response.")
DURATION: Final = (
    "http_request_duration_seconds",
    "Time from the start of a request to the last byte of its response.",
)
IN_PROGRESS: Final = ("http_requests_in_progress", "Requests that are being served now.")
EXCEPTIONS: Final = ("http_request_exceptions", "Exceptions that the application let through to the server.")
DROPPED: Final = ("wsgi_prom_dropped_series", "Label sets beyond the limit, which were counted as OTHER.")
ERRORS: Final = ("wsgi_prom_errors", "Failures of wsgi_prom itself, none of which reached the application.")

# The exporter's own, which no slot holds.
BUILD_INFO: Final = ("wsgi_prom_build_info", "The version of wsgi_prom that answers.")
SCRAPE_DURATION: Final = (
    "wsgi_prom_scrape_duration_seconds",
    "Time that this scrape took to read and merge.",
)
SLOTS: Final = ("wsgi_prom_slots", "Slots of the shared directory, by whether a living process holds them.")
VALUE_BYTES: Final = ("wsgi_prom_value_bytes", "Bytes of values that this scrape read.")
UNREADABLE: Final = (
    "wsgi_prom_unreadable_files",
    "Files that this scrape left out since they could not be read.",
)
CONFLICTS: Final = (
    "wsgi_prom_conflicting_metrics",
    "Metrics that this scrape left out since another has the same name.",
)


def request_schema(bounds: tuple[float, ...]) -> Schema:
    """Return the block of a method, route and status: the sum of durations, then a column for each bucket."""
    buckets = (1, 2 + len(bounds))
    return format.Schema(
        ("method", "route", "status"),
        buckets[1],
        (
            format.Metric("counter", *REQUESTS, labels=(0, 1, 2), count=buckets),
            format.Metric(
                "histogram",
                *DURATION,
                labels=(0, 1),
                total=(0, 1),
                buckets=buckets,
                bounds=(*bounds, float("inf")),
            ),
        ),
    )


Block = tuple["Columns", int]


class Recorder:
    """
    Records requests in the process's slot.

    Thread and fork safe. `fail` apart, the methods may raise OSError when there is no space for a new series: the
    caller keeps that from the application.
    """

    def __init__(self, settings: Settings) -> None:
        self._bounds = settings.buckets
        self._limit = settings.label_limit
        self._in_progress = format.gauge(*IN_PROGRESS, (), "livesum")
        self._request = request_schema(settings.buckets)
        self._exception = format.counter(*EXCEPTIONS, ("method", "route", "exception"))
        self._dropped = format.counter(*DROPPED, ("metric",))
        self._errors = format.counter(*ERRORS, ("stage",))
        schemas = (self._in_progress, self._request, self._exception, self._dropped, self._errors)
        self._blocks: dict[Schema, dict[tuple[str, ...], Block]] = {schema: {} for schema in schemas}
        # The two of every request, without a look-up by schema.
        self._requests = self._blocks[self._request]
        self._busy: Block = ([0.0], 0)
        self._logged: set[str] = set()
        lease.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Record into *slot* from now on; see `wsgi_prom.storage.lease.Binding`."""
        fresh: dict[tuple[Schema, tuple[str, ...]], Block] = {}
        wanted: list[tuple[Schema, tuple[str, ...]]] = [(self._in_progress, ())]
        while wanted:
            # Outside of the lock, which is never held across a system call: a thread may meet new labels meanwhile.
            fresh.update({key: slot.block(*key) for key in wanted})
            with lease.lock:
                wanted = [key for key in self._known() if key not in fresh] if keep else []
                if not wanted:
                    self._swap(fresh, keep=keep)

    def enter(self) -> object:
        """Count a request as in progress, and return the token that `leave` asks for."""
        if not lease.alive[0]:
            lease.renew()
        token = lease.lock
        with token:
            columns, index = self._busy
            columns[index] += 1.0
        return token

    def leave(self, token: object, labels: tuple[str, str, str], seconds: float) -> None:
        """
        Count a request that is over: *labels* are its method, route and status, *seconds* its duration.

        Does nothing in a process that was forked since `enter`: the request is the parent's.
        """
        lock = lease.lock
        if token is not lock or not lease.alive[0]:
            return
        block = self._requests.get(labels)
        if block is None:
            try:
                block = self._block(self._request, labels)
            except Exception:
                self.dismiss(token)
                raise
        bucket = 1 + bisect_left(self._bounds, seconds)
        with lock:
            columns, index = self._busy
            columns[index] -= 1.0
            # Looked up again under the lock: a slot that was claimed meanwhile has other columns.
            columns, index = self._requests.get(labels, block)
            columns[index] += seconds
            columns[index + bucket] += 1.0

    def dismiss(self, token: object) -> None:
        """Take a request out of those in progress, and do not count it."""
        lock = lease.lock
        if token is lock and lease.alive[0]:
            with lock:
                columns, index = self._busy
                columns[index] -= 1.0

    def count_exception(self, method: str, route: str, exception: type[BaseException]) -> None:
        self._count(self._exception, (method, route, exception.__name__))

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
        block = self._block(schema, labels)
        with lease.lock:
            columns, index = self._blocks[schema].get(labels, block)
            columns[index] += 1.0

    def _block(self, schema: Schema, labels: tuple[str, ...]) -> Block:
        blocks = self._blocks[schema]
        block = blocks.get(labels)
        if block is None and len(blocks) >= self._limit and OTHER not in labels:
            self._count(self._dropped, (schema.metrics[0].name,))
            return self._block(schema, tuple(map(self._fold, schema.labelnames, labels)))
        if block is None:
            block = lease.slot.block(schema, labels)
            with lease.lock:
                blocks[labels] = block
        return block

    @staticmethod
    def _fold(name: str, value: str) -> str:
        # Methods and statuses are few by themselves, and tell more than a row of OTHER.
        return value if name in {"method", "status"} else OTHER

    def _known(self) -> list[tuple[Schema, tuple[str, ...]]]:
        return [(schema, labels) for schema, blocks in self._blocks.items() for labels in blocks]

    def _swap(self, fresh: dict[tuple[Schema, tuple[str, ...]], Block], *, keep: bool) -> None:
        for blocks in self._blocks.values():
            if not keep:
                blocks.clear()
        for (schema, labels), (columns, index) in fresh.items():
            old = self._blocks[schema].get(labels)
            if old is not None:
                for offset in range(schema.width):
                    columns[index + offset] += old[0][old[1] + offset]
            self._blocks[schema][labels] = columns, index
        self._busy = self._blocks[self._in_progress][()]
