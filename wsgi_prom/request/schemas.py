"""
The rows that the middleware records into, as the settings would have them.

The metrics of a request share one row for each method, route and status. The count of requests is the sum of the
duration's buckets, so that the two can never disagree, and a request costs one look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom import metrics
from wsgi_prom.store import file_format
from wsgi_prom.store.file_format import Metric, Schema

if TYPE_CHECKING:
    from wsgi_prom.settings import Settings

    # A route, with the values of the labels that are asked for behind it if there are such.
    Where = str | tuple[str, ...]

INFINITY = float("inf")

# Labels that are few by themselves, and tell more than a row of OTHER would.
_NEVER_FOLDED: Final = frozenset({"method", "status", "status_class"})


@dataclass(frozen=True)
class RequestSchema:
    """
    The row of a method, route and status, and the offsets of its columns after those of the duration.

    The offsets are the same whatever is turned off: a metric that nobody wants is not shown, and its columns stay.
    """

    schema: Schema
    received: int
    sent: int
    first_byte: int


class Schemas:
    """The schemas of all rows that the middleware records into, None for a metric that is disabled."""

    def __init__(self, settings: Settings) -> None:
        self.request = request_schema(settings)
        # More of the same counter: requests whose duration is no latency.
        self.untimed = _labelled(settings, metrics.REQUESTS, ("status",))
        self.exception = _counter(settings, metrics.EXCEPTIONS, ("exception",))
        self.aborted = _counter(settings, metrics.ABORTED, ())
        self.in_progress: Schema | None = None
        if _enabled(settings, metrics.IN_PROGRESS):
            self.in_progress = file_format.gauge(*_named(settings, metrics.IN_PROGRESS), (), "livesum")
        self.queue: Schema | None = None
        if _enabled(settings, metrics.QUEUE):
            bounds = (*settings.queue_buckets, INFINITY)
            self.queue = file_format.histogram(*_named(settings, metrics.QUEUE), (), bounds)
        self.dropped = file_format.counter(*metrics.DROPPED, ("metric",))
        self.errors = file_format.counter(*metrics.ERRORS, ("stage",))
        # Their labels are names of ours.
        self.unlimited = frozenset({self.dropped, self.errors})

    def all(self) -> tuple[Schema | None, ...]:
        return (
            self.in_progress, self.request.schema, self.untimed, self.exception, self.aborted, self.queue,
            self.dropped, self.errors,
        )  # fmt: skip


class ExtraLabels:
    """
    The labels that the settings add. Of those of a request, only what callables say is kept beside its route.
    """

    def __init__(self, settings: Settings) -> None:
        self._labels = settings.labels
        self.asked = tuple(value for _, value in settings.labels if callable(value))
        self.asked_names = frozenset(name for name, value in settings.labels if callable(value))

    def place(self, where: Where) -> tuple[str, ...]:
        """Return the route and all extra labels that *where* stands for."""
        route, *asked = (where,) if isinstance(where, str) else where
        answers = iter(asked)
        return (route, *[next(answers) if callable(value) else value for _, value in self._labels])

    def where(self, labels: tuple[str, ...]) -> Where:
        """Return what stands for the route and the extra labels of a request's *labels*."""
        if not self.asked:
            return labels[1]
        # The class of the status may be behind them.
        given = zip(self._labels, labels[3:], strict=False)
        return (labels[1], *[label for (_, value), label in given if callable(value)])


def request_schema(settings: Settings) -> RequestSchema:
    extra = tuple(name for name, _ in settings.labels)
    labelnames = ("method", "route", "status", *extra, *(("status_class",) if settings.status_class else ()))
    by_route = (0, 1, *range(3, 3 + len(extra)))
    by_status = (0, 1, 2, *range(3, 3 + len(extra)))
    duration_labels = (*by_route, 3 + len(extra)) if settings.status_class else by_route

    bounds = (*settings.buckets, INFINITY)
    # A sum of durations, a column for each bucket; the sum of request sizes and the number of those that are not
    # known, which are few; the sum of response sizes; and perhaps the times to the first byte, as the durations.
    duration, received = 0, 1 + len(bounds)
    sent = received + 2
    first_byte = sent + 1
    buckets = (duration + 1, received)
    shown = [
        Metric("counter", *_named(settings, metrics.REQUESTS), labels=by_status, count=buckets),
        *_unless_disabled(
            settings,
            "histogram",
            metrics.DURATION,
            labels=duration_labels,
            total=(duration, duration + 1),
            buckets=buckets,
            bounds=bounds,
        ),
        *_unless_disabled(
            settings,
            "summary",
            metrics.REQUEST_SIZE,
            labels=by_route,
            total=(received, received + 1),
            count=buckets,
            less=(received + 1, received + 2),
        ),
        *_unless_disabled(
            settings,
            "summary",
            metrics.RESPONSE_SIZE,
            labels=by_route,
            total=(sent, sent + 1),
            count=buckets,
        ),
    ]
    width = first_byte
    if settings.first_byte:
        width += 1 + len(bounds)
        shown.append(
            Metric(
                "histogram",
                *_named(settings, metrics.FIRST_BYTE),
                labels=by_route,
                total=(first_byte, first_byte + 1),
                buckets=(first_byte + 1, width),
                bounds=bounds,
            )
        )
    return RequestSchema(Schema(labelnames, width, tuple(shown)), received, sent, first_byte)


def registered(method: str) -> str:
    """Return the label of a request's *method*."""
    return method if method in metrics.METHODS else metrics.OTHER


def folded(schema: Schema, labels: tuple[str, ...], names: frozenset[str] | None = None) -> tuple[str, ...]:
    """Return what stands for *labels* beyond the limit: OTHER for the labels *names*, or for all that may be many."""
    return tuple(
        metrics.OTHER if (name not in _NEVER_FOLDED if names is None else name in names) else value
        for name, value in zip(schema.labelnames, labels, strict=True)
    )


def _counter(settings: Settings, metric: tuple[str, str], more: tuple[str, ...]) -> Schema | None:
    if metric[0] + "_total" in settings.disable:
        return None
    return _labelled(settings, metric, more)


def _labelled(settings: Settings, metric: tuple[str, str], more: tuple[str, ...]) -> Schema:
    extra = tuple(name for name, _ in settings.labels)
    return file_format.counter(*_named(settings, metric), ("method", "route", *more, *extra))


def _unless_disabled(settings: Settings, typ: str, metric: tuple[str, str], **columns: Any) -> list[Metric]:
    return [Metric(typ, *_named(settings, metric), **columns)] if _enabled(settings, metric) else []


def _enabled(settings: Settings, metric: tuple[str, str]) -> bool:
    return metric[0] not in settings.disable


def _named(settings: Settings, metric: tuple[str, str]) -> tuple[str, str]:
    name, help_text = metric
    return settings.prefix + name, help_text
