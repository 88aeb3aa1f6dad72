"""
A registry with a MultiProcessCollector shows each metric once, as of all processes.

The library shows one that is registered there as well twice: as of all, and as of the process that answers.
"""

from __future__ import annotations

from functools import wraps
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
    """Have registries, also by `name[]`, leave out what is merged already. Call it once."""
    kind: Any = registry.CollectorRegistry
    kind.collect = _once(kind.collect, lambda asked: asked)
    kind = registry.RestrictedRegistry
    kind.collect = _once(kind.collect, lambda asked: asked._registry)


def _once(
    collect: Callable[[Any], Iterable[Metric]], registry_of: Callable[[Any], Any]
) -> Callable[[Any], Iterable[Metric]]:
    @wraps(collect)
    def collect_once(asked: Any) -> Iterable[Metric]:
        collectors = list(registry_of(asked)._collector_to_names)
        # By type, since asking a proxy for its class runs the application's code.
        if not any(issubclass(type(collector), MultiProcessCollector) for collector in collectors):
            return collect(asked)
        found = list(collect(asked))
        merged = {metric.name for metric in found if isinstance(metric, MergedMetric)}
        return [metric for metric in found if isinstance(metric, MergedMetric) or metric.name not in merged]

    return collect_once
