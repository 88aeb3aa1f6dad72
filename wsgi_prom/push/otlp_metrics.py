"""
The metrics of a reading in OpenTelemetry's data model: cumulative sums and histograms with start times, gauges, summaries.

By https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/: a counter is without `_total`, an Info
or an Enum is a sum that may go down. A start time that is not known is absent. Metrics that are called as OpenTelemetry's
conventions call them on a page (WSGI_PROM_NAMES=otel) are sent as the conventions have them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.metrics import NAMES
from wsgi_prom.push.reading import exported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wsgi_prom.push.reading import Child, Metric, Reading

# Points in one request.
_BATCH: Final = 1000
# UCUM's, by the unit of a metric, or by the end of its name.
_UNITS: Final = {"seconds": "s", "bytes": "By"}
_STATES: Final = frozenset({"info", "stateset"})
_CONVENTIONS: Final = NAMES["otel"]


def batches(reading: Reading) -> Iterator[tuple[list[Any], int]]:
    """Yield the metrics of *reading*, in messages of OTLP, and how many points they have: some 1,000 at a time."""
    held: list[Any] = []
    points = 0
    for metric in reading.metrics:
        for first in range(0, len(metric.children), _BATCH):
            children = metric.children[first : first + _BATCH]
            if held and points + len(children) > _BATCH:
                yield held, points
                held, points = [], 0
            for found, count in _messages(metric, children, round(reading.time * 1e9)):
                held.append(found)
                points += count
    if held:
        yield held, points


def _messages(metric: Metric, children: list[Child], time: int) -> Iterator[tuple[Any, int]]:
    """Yield the messages of *children*, label sets of *metric*, and how many points each has. *time* is in nanoseconds."""
    from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp

    # The names that this metric and its labels have here, where they are others.
    names = _CONVENTIONS.dotted if metric.name in _CONVENTIONS.dotted else {}
    # The conventions have sizes as histograms. Without buckets: a count and a sum.
    if metric.type == "histogram" or (names and metric.type == "summary"):
        message = _message(metric, metric.name, names)
        message.histogram.aggregation_temporality = otlp.AGGREGATION_TEMPORALITY_CUMULATIVE
        _add(message.histogram.data_points, children, time, _histogram, names)
        yield message, len(children)
    elif metric.type == "summary":
        message = _message(metric, metric.name, names)
        _add(message.summary.data_points, children, time, _summary, names)
        yield message, len(children)
    else:
        yield from _by_sample(metric, children, time, names)


def _by_sample(
    metric: Metric, children: list[Child], time: int, names: Mapping[str, str]
) -> Iterator[tuple[Any, int]]:
    """Do as `_messages` for a metric whose samples are points: a message for each name of a sample, a sum or a gauge."""
    from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp

    messages: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for child in children:
        for sample, more, value in child.samples:
            counted = metric.type == "counter" and sample == f"{metric.name}_total"
            name = metric.name if counted else sample
            if name not in messages:
                messages[name] = _message(metric, name, names)
            counts[name] += 1
            message = messages[name]
            if counted or names or metric.type in _STATES:
                message.sum.aggregation_temporality = otlp.AGGREGATION_TEMPORALITY_CUMULATIVE
                message.sum.is_monotonic = counted
                points = message.sum.data_points
            else:
                points = message.gauge.data_points
            point = points.add(time_unix_nano=time, as_double=value)
            if counted:
                point.start_time_unix_nano = _nanoseconds(child.start)
            _attributes(point.attributes, (*child.labels, *more), names)
    yield from [(message, counts[name]) for name, message in messages.items()]


def _message(metric: Metric, name: str, names: Mapping[str, str]) -> Any:
    """Return a message called *name*, without points."""
    from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp

    unit = metric.unit or name.rpartition("_")[2]
    counted = "{request}" if names and metric.type == "gauge" else ""
    return otlp.Metric(name=names.get(name, name), description=metric.help, unit=_UNITS.get(unit, counted))


def _add(points: Any, children: list[Child], time: int, fill: Any, names: Mapping[str, str]) -> None:
    for child in children:
        point = points.add(time_unix_nano=time, start_time_unix_nano=_nanoseconds(child.start))
        _attributes(point.attributes, child.labels, names)
        fill(point, child)


def _histogram(point: Any, child: Child) -> None:
    before = 0.0
    for name, more, value in child.samples:
        if more:
            bound = float(more[0][1])
            if math.isfinite(bound):
                point.explicit_bounds.append(bound)
            point.bucket_counts.append(round(value - before))
            before = value
        elif name.endswith("_sum"):
            point.sum = value
        elif name.endswith("_count"):
            point.count = round(value)
    # A custom collector may have no bucket at infinity; one more count than bounds is what there has to be.
    if 0 < len(point.bucket_counts) == len(point.explicit_bounds):
        point.bucket_counts.append(max(round(point.count - before), 0))


def _summary(point: Any, child: Child) -> None:
    for name, more, value in child.samples:
        if more:
            point.quantile_values.add(quantile=float(more[0][1]), value=value)
        elif name.endswith("_sum"):
            point.sum = value
        elif name.endswith("_count"):
            point.count = round(value)


def _attributes(attributes: Any, labels: Iterable[tuple[str, str]], names: Mapping[str, str]) -> None:
    for name, value in exported(tuple(labels), ()).items():
        found = attributes.add(key=names.get(name, name)).value
        if names and name == _CONVENTIONS.status and value.isdigit():
            found.int_value = int(value)
        else:
            found.string_value = value


def _nanoseconds(start: float) -> int:
    return round(start * 1e9)
