"""
A registry with a MultiProcessCollector shows each metric once, as of all processes; by `name[]` as well.

1. The library shows one that is registered there too twice: as of all, and as of the process that answers.
2. By `name[]` it asks no collector whose names it does not know, unless the registry was made for such.
"""

from __future__ import annotations

from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import registry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class MergedMetric(Metric):
    """A metric as of all processes, told from that of one."""

    @classmethod
    def of(cls, metric: Metric) -> Self:
        found = cls("_", metric.documentation, metric.type)
        # Not by the constructor, which may refuse a name by rules that are newer than the metric.
        found.name, found.unit, found.samples = metric.name, metric.unit, metric.samples
        return found

    def _restricted_metric(self, names: Iterable[str]) -> Self | None:
        samples = [sample for sample in self.samples if sample.name in names]
        if not samples:
            return None
        found = self.of(self)
        found.samples = samples
        return found


def install() -> None:
    """Make registries do so. Call it once."""
    _replace(registry.CollectorRegistry, lambda asked: asked, lambda _asked, _collector: [])
    _replace(registry.RestrictedRegistry, lambda asked: asked._registry, _restricted)


def _replace(
    kind: Any, registry_of: Callable[[Any], Any], more: Callable[[Any, Any], Iterable[Metric]]
) -> None:
    collect = kind.collect

    @wraps(collect)
    def collect_once(asked: Any) -> Iterable[Metric]:
        # By type, since asking a proxy for its class runs the application's code.
        merging = [
            collector
            for collector in list(registry_of(asked)._collector_to_names)
            if issubclass(type(collector), MultiProcessCollector)
        ]
        if not merging:
            found: Iterable[Metric] = collect(asked)
            return found
        every = [*collect(asked), *chain.from_iterable(more(asked, collector) for collector in merging)]
        merged = {metric.name for metric in every if isinstance(metric, MergedMetric)}
        return [metric for metric in every if isinstance(metric, MergedMetric) or metric.name not in merged]

    kind.collect = collect_once


def _restricted(asked: Any, collector: Any) -> Iterable[Metric]:
    """Return what *asked*, a RestrictedRegistry, selects of *collector*, if the library does not ask that."""
    if collector in getattr(asked._registry, "_collectors_without_names", ()):
        return []
    found = [metric._restricted_metric(asked._name_set) for metric in collector.collect()]
    return [metric for metric in found if metric is not None]
