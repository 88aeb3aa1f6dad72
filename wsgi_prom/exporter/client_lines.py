"""
Metrics of any type as the client library renders them: those of collectors, and of a process's registry.

One that cannot be rendered costs its own lines, and the log says so.
"""

from __future__ import annotations

import logging
from copy import copy
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

log = logging.getLogger("wsgi_prom")


def render(metrics: Iterable[Metric], *, openmetrics: bool, names: Collection[str]) -> str:
    """Return the lines of *metrics* that *names* select, see `wsgi_prom.exporter.exposition`."""
    parts = []
    for metric in metrics:
        try:
            # A copy: a collector may return the same objects each time (the library's platform collector does).
            found = _selected_and_encodable(copy(metric), names)
            if found.samples or not names:
                parts.append(_lines(found, openmetrics=openmetrics))
        except Exception as error:  # of a metric that is not as the library's are: the others are shown
            _warn(f"{metric.name} is not on the page ({type(error).__name__}: {error})")
    return "".join(parts)


def _selected_and_encodable(metric: Metric, names: Collection[str]) -> Metric:
    """Change *metric*: the library's renderers raise for a lone surrogate, and there would be no page."""
    metric.documentation = encodable(metric.documentation)
    samples = []
    for sample in metric.samples:
        if (not names or metric.name in names or sample.name in names) and not _is_start(metric, sample):
            exemplar = sample.exemplar
            if exemplar:
                exemplar = exemplar._replace(labels=_encodable_labels(exemplar.labels))
            samples.append(sample._replace(labels=_encodable_labels(sample.labels), exemplar=exemplar))
    metric.samples = samples
    return metric


def _encodable_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: encodable(value) for name, value in labels.items()}


def _lines(metric: Metric, *, openmetrics: bool) -> str:
    registry: Any = SimpleNamespace(collect=lambda: [metric])
    if openmetrics:
        page: bytes = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return page.decode().removesuffix("# EOF\n")
    return generate_latest(registry).decode()


@lru_cache(maxsize=256)
def _warn(message: str) -> None:
    """Log *message*, once."""
    log.warning("%s", message)


def encodable(text: str) -> str:
    """Return *text* with what has no form in UTF-8, a lone surrogate, escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_start(metric: Metric, sample: Sample) -> bool:
    """Return whether *sample* is a line `_created`, of which Prometheus makes a series."""
    return metric.type in _WITH_STARTS and sample.name == f"{metric.name}_created"


_WITH_STARTS: Final = frozenset({"counter", "summary", "histogram"})
