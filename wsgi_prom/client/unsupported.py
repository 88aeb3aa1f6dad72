"""
Warns once of metrics that a page of several processes cannot show: Enum, custom collectors, gauges with a function.

They live in one process; the library's own multiprocess mode leaves them out too, without a warning. Nothing here raises
into the application, or changes what the library does for it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import metrics, multiprocess, registry
from prometheus_client import values as client_values

from wsgi_prom.client.slot_values import SlotValue
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("wsgi_prom")

_MESSAGES: Final = {
    "stateset": (
        "Enum %s is on no page: it lives in one process. Use a Gauge with a label for the state, set to 1 or 0, and "
        'multiprocess_mode="livemax".'
    ),
    "function": (
        "Gauge %s is on no page: its function can be called in its own process alone. Call set() where the figure "
        "changes, or in a thread."
    ),
    "collector": (
        "the custom collector %s is on no page: it can be called in its own process alone. Record into a Counter or "
        "Gauge instead, or serve it from a process of its own."
    ),
    "merge": (
        "MultiProcessCollector.merge(%s) knows the files of processes without wsgi_prom alone; those of this server are not in its "
        "result. Use MultiProcessCollector(registry), which has them."
    ),
}
_warned: Final[set[str]] = set()


def install(existing: Iterable[Any]) -> None:
    """Watch what is made from now on, and look at the metrics and registries that *existing* are. Call it once."""
    _watch(metrics.Enum, "_metric_init", lambda metric, *_: _warn_once(metric._type, metric._name))
    _watch(metrics.Gauge, "set_function", _without_value)
    _watch(registry.CollectorRegistry, "register", lambda _, collector, *__: _check_collector(collector))
    multiprocess.MultiProcessCollector.merge = staticmethod(_merge(multiprocess.MultiProcessCollector.merge))  # type: ignore[method-assign]
    for item in existing:
        with suppress(Exception):
            if isinstance(item, registry.CollectorRegistry):
                for collector in list(item._collector_to_names):
                    _check_collector(collector)
            elif item._type == "stateset":
                _warn_once(item._type, item._name)
            elif isinstance(item, metrics.Gauge) and "_child_samples" in vars(item):
                _without_value(item)


def _watch(kind: type, name: str, look: Callable[..., None]) -> None:
    method = getattr(kind, name)

    @wraps(method)
    def watched(*arguments: Any, **keywords: Any) -> Any:
        result = method(*arguments, **keywords)
        with suppress(Exception):
            look(*arguments, *keywords.values())
        return result

    setattr(kind, name, watched)


def _check_collector(collector: Any) -> None:
    # By type, since asking a proxy for its class runs the application's code. The library's own need no warning.
    kind = type(collector)
    if not issubclass(kind, metrics.MetricWrapperBase) and not kind.__module__.startswith(
        "prometheus_client."
    ):
        _warn_once("collector", kind.__qualname__)


def _without_value(gauge: Any, *_: Any) -> None:
    """Take *gauge*, whose figure is not known here, off the page, where it would be 0."""
    value = gauge._value
    gauge._value = client_values.MutexValue("gauge", gauge._name, gauge._name, (), (), "")  # type: ignore[no-untyped-call]
    if isinstance(value, SlotValue):
        with current_slot.lock:
            value.hide()
        value._row = None  # which nobody else refers to, and which would show it again in the next slot
    _warn_once("function", gauge._name)


def _merge(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def merge(*arguments: Any, **keywords: Any) -> Any:
        # Not answered with all there is: applications merge the files of one dead worker, and write the result back.
        with suppress(Exception):
            _warn_once("merge", "files")
        return method(*arguments, **keywords)

    return merge


def _warn_once(kind: str, name: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        log.warning(_MESSAGES[kind], name)
