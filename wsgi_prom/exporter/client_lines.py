"""
The lines of metrics of any type, as the client library renders them: those of collectors, and of a process's registry.

Not by the library itself. It ends a line within a name or an exemplar now and then, and its names are escaped as a client asks
for from 0.23 on only. A metric that cannot be rendered costs its own lines; the log says so, and it is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsgi_prom.exporter import lines
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

# Lines `_created`, of which Prometheus makes a series.
_WITH_STARTS: Final = frozenset({"counter", "summary", "histogram"})
# Samples that only OpenMetrics has in a family: in the text format each makes up a gauge.
_APART: Final = ("_created", "_gcount", "_gsum")


def render(
    metrics: Iterable[Metric], escaping: str, *, openmetrics: bool, names: Collection[str]
) -> tuple[str, int]:
    """
    Return the lines of *metrics* that *names* select, see `wsgi_prom.exporter.exposition`, and how many could not be rendered.
    """
    parts = []
    failed = 0
    for metric in metrics:
        try:
            samples = [
                sample
                for sample in metric.samples
                if not names or metric.name in names or sample.name in names
            ]
            if samples or not names:
                parts.append(_lines(metric, samples, escaping, openmetrics=openmetrics))
        except Exception as error:  # of a metric that is not as the library's are: the others are shown
            failed += 1
            warn_once(f"{metric.name} is not on the page", f"{type(error).__name__}: {error}")
    return "".join(parts), failed


def _lines(metric: Metric, samples: Iterable[Sample], escaping: str, *, openmetrics: bool) -> str:
    head = lines.head(
        metric.name, metric.type, metric.documentation, metric.unit, escaping, openmetrics=openmetrics
    )
    parts = [head]
    apart: dict[str, list[str]] = {}
    for sample in samples:
        suffix = sample.name.removeprefix(metric.name)
        # Neither format has native histograms.
        native = getattr(sample, "native_histogram", None) is not None
        if native or (metric.type in _WITH_STARTS and suffix == "_created"):
            continue
        if openmetrics:
            parts.append(_line(sample, escaping, _openmetrics_end(metric, sample, escaping)))
            continue
        end = "" if sample.timestamp is None else f" {int(float(sample.timestamp) * 1000)}"
        found = apart.setdefault(suffix, []) if suffix in _APART else parts
        found.append(_line(sample, escaping, end))
    for suffix, found in sorted(apart.items()):
        parts.append(
            lines.head(metric.name + suffix, "gauge", metric.documentation, "", escaping, openmetrics=False)
        )
        parts += found
    return "".join(parts)


def _line(sample: Sample, escaping: str, end: str) -> str:
    labels = sorted((sample.labels or {}).items())
    return f"{lines.start(sample.name, labels, escaping)}{lines.number(float(sample.value))}{end}\n"


def _openmetrics_end(metric: Metric, sample: Sample, escaping: str) -> str:
    end = "" if sample.timestamp is None else f" {sample.timestamp}"
    if not sample.exemplar:
        return end
    counted = metric.type == "counter" and sample.name.endswith("_total")
    if not counted and not (metric.type.endswith("histogram") and sample.name.endswith("_bucket")):
        raise ValueError("OpenMetrics has exemplars of counters and of buckets alone")
    return end + lines.exemplar(sample.exemplar, escaping)
