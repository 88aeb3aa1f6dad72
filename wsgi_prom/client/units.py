"""The units of the client library's metrics. It makes their values without telling the unit, just after it is known."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

# By the name of the metric. Those of an Info or an Enum have none.
_units: Final[dict[str, str]] = {}
_KINDS: Final = (metrics.Counter, metrics.Gauge, metrics.Summary, metrics.Histogram)


def install() -> None:
    """Note the units of what is made from now on. Call it once."""
    for kind in _KINDS:
        kind._metric_init = _noting(kind._metric_init)  # type: ignore[method-assign]


def note(metric: Any) -> None:
    """Note the unit of *metric*."""
    if metric._unit:
        _units[metric._name] = metric._unit
    else:
        _units.pop(metric._name, None)


def unit(name: str) -> str:
    """Return the unit of the metric *name*, or an empty text."""
    return _units.get(name, "")


def _noting(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def metric_init(metric: Any) -> None:
        with suppress(Exception):
            note(metric)
        method(metric)

    return metric_init
