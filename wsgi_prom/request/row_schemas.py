"""
The schemas of the rows that the middleware records into.

The metrics of a request share one row for each method, route and status. The count of requests is the sum of the
duration's buckets, so that the two can never disagree, and a request costs one look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.store.schemas import Metric, Schema, counter, gauge, histogram, summary

if TYPE_CHECKING:
    from wsgi_prom.settings import Settings

    # A request's route; with the labels that callables return, if the settings have any.
    RouteLabels = str | tuple[str, ...]

INFINITY = float("inf")

# In the order of garbage.py.
_GARBAGE: Final = (metrics.GC_COLLECTED, metrics.GC_UNCOLLECTABLE, metrics.GC_COLLECTIONS)

# The status that is shown at 0 for each method and route on the page: the first error would be no increase in Prometheus otherwise.
_FIRST_ERROR: Final = "500"

# Labels that are few by themselves, and tell more than a row of OTHER would.
_NEVER_FOLDED: Final = frozenset({"status_class"}).union(
    *[(names.method, names.status, names.error_type) for names in metrics.NAMES.values()]
)


@dataclass(frozen=True)
class RequestSchema:
    """
    The schema of a request's row, and the first column of each part that follows the duration.

    *received* is the sum of request sizes, *unknown* the number of those that are not known, which are few, and *sent* the
    sum of response sizes. *first_byte* is laid out as the duration: a sum, and a column for each bucket. A metric that is
    disabled is not shown, and its columns stay.
    """

    schema: Schema
    received: int
    unknown: int
    sent: int
    first_byte: int


class Schemas:
    """The schemas of all rows that the middleware records into, None for a metric that is disabled."""

    def __init__(self, settings: Settings) -> None:
        self._names = metrics.NAMES[settings.names]
        self._status_class = settings.status_class
        self.request = request_schema(settings)
        # More of the same counter: requests whose duration is no latency.
        self.untimed = _with_seconds(_counter(settings, metrics.REQUESTS, self._names.status))
        self.exception = _counter(settings, metrics.EXCEPTIONS, "exception")
        self.aborted = _counter(settings, metrics.ABORTED)
        self.cpu: Schema | None = None
        if settings.cpu:
            self.cpu = summary(*_named(settings, metrics.CPU), _labelnames(settings))
        self.in_progress: Schema | None = None
        if metrics.IN_PROGRESS[0] not in settings.disable:
            self.in_progress = gauge(*_named(settings, metrics.IN_PROGRESS), (), "livestarts")
        self.queue: Schema | None = None
        if metrics.QUEUE[0] not in settings.disable:
            bounds = (*settings.queue_buckets, INFINITY)
            self.queue = histogram(*_named(settings, metrics.QUEUE), (), bounds)
        self.dropped = counter(*metrics.DROPPED, ("metric",))
        self.errors = counter(*metrics.ERRORS, ("stage",))
        self.garbage = Schema(
            ("worker", "generation"), len(_GARBAGE),
            tuple(Metric("counter", *entry, labels=(0, 1), count=(n, n + 1)) for n, entry in enumerate(_GARBAGE)),
        )  # fmt: skip
        # Their labels are names and numbers of ours.
        self.unlimited = frozenset({self.dropped, self.errors, self.garbage})
        self.all = [
            schema
            for schema in (self.in_progress, self.request.schema, self.untimed, self.exception, self.aborted,
                           self.cpu, self.queue, self.dropped, self.errors, self.garbage)
            if schema is not None
        ]  # fmt: skip

    def labels(self, method: str, route: str) -> tuple[str, str]:
        """Return the labels of a request's *method* and *route*."""
        names = self._names
        return (
            method if method in metrics.METHODS else names.other,
            names.unmatched if route == metrics.UNMATCHED else route,
        )

    def of_status(self, status: str) -> tuple[str, ...]:
        """Return the labels at the end of a request's row, which follow from its *status*."""
        labels: tuple[str, ...] = ()
        if self._names.error_type:
            # By the conventions a 4xx is no error of a server.
            labels = (status[:3] if status.startswith("5") else "",)
        return (*labels, f"{status[:1]}xx") if self._status_class else labels


def request_schema(settings: Settings) -> RequestSchema:
    called = metrics.NAMES[settings.names]
    names = (called.method, called.route, called.status, *(name for name, _ in settings.labels))
    by_status = tuple(range(len(names)))
    by_route = by_size = by_duration = (0, 1, *by_status[3:])
    zero, zero_duration = (called.status, _FIRST_ERROR), tuple[str, ...]()
    if called.error_type:
        # OpenTelemetry counts requests by their durations alone.
        by_size = by_duration = (*by_status, len(names))
        zero_duration = (*zero, called.error_type, _FIRST_ERROR)
        names = (*names, called.error_type)
    if settings.status_class:
        zero_duration = zero_duration and (*zero_duration, "status_class", f"{_FIRST_ERROR[0]}xx")
        names, by_duration = (*names, "status_class"), (*by_duration, len(names))
    bounds = (*settings.buckets, INFINITY)
    received = 1 + len(bounds)
    unknown, sent, first_byte = received + 1, received + 2, received + 3
    width = first_byte + (received if settings.first_byte else 0)
    count = (1, received)
    disabled = settings.disable if settings.first_byte else {*settings.disable, metrics.FIRST_BYTE[0]}
    shown = (
        ("counter", metrics.REQUESTS, {"labels": by_status, "count": count, "zero": zero}),
        ("histogram", metrics.DURATION,
         {"labels": by_duration, "total": (0, 1), "buckets": count, "bounds": bounds, "zero": zero_duration}),
        # At 0 here; those that were aborted have a row of their own.
        ("counter", metrics.ABORTED, {"labels": by_route}),
        ("summary", metrics.REQUEST_SIZE,
         {"labels": by_size, "total": (received, unknown), "count": count, "less": (unknown, sent)}),
        ("summary", metrics.RESPONSE_SIZE, {"labels": by_size, "total": (sent, first_byte), "count": count}),
        ("histogram", metrics.FIRST_BYTE,
         {"labels": by_route, "total": (first_byte, first_byte + 1), "buckets": (first_byte + 1, width),
          "bounds": bounds}),
    )  # fmt: skip
    made = tuple(
        Metric(kind, *_named(settings, metric), **columns)
        for kind, metric, columns in shown
        if disabled.isdisjoint({metric[0], metric[0] + "_total"})
    )
    return RequestSchema(Schema(names, width, made), received, unknown, sent, first_byte)


def folded(schema: Schema, labels: tuple[str, ...], names: frozenset[str] | None = None) -> tuple[str, ...]:
    """Return *labels* with OTHER for those called *names*, by default for all that may have many values."""
    return tuple(
        metrics.OTHER if (name not in _NEVER_FOLDED if names is None else name in names) else value
        for name, value in zip(schema.labelnames, labels, strict=True)
    )


def _with_seconds(counter: Schema | None) -> Schema | None:
    """Return *counter* with a column more that no metric shows: how long its requests kept the worker busy."""
    return counter and Schema(counter.labelnames, 2, counter.metrics)


def _counter(settings: Settings, metric: tuple[str, str], *more: str) -> Schema | None:
    """Return the schema of a counter by method, route and *more* labels, None if it is disabled."""
    if metric[0] + "_total" in settings.disable:
        return None
    zero = (metrics.NAMES[settings.names].status, _FIRST_ERROR) if metric is metrics.REQUESTS else ()
    return counter(*_named(settings, metric), _labelnames(settings, *more), zero)


def _labelnames(settings: Settings, *more: str) -> tuple[str, ...]:
    called = metrics.NAMES[settings.names]
    return (called.method, called.route, *more, *(name for name, _ in settings.labels))


def _named(settings: Settings, metric: tuple[str, str]) -> tuple[str, str]:
    return settings.prefix + metrics.NAMES[settings.names].of(metric), metric[1]
