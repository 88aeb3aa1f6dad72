"""
Finds the custom collectors of all registries, and the gauges with a function: their figures are in no slot until they are asked.

The client library's own collectors are not among them: the exporter shows what they know of a server's processes.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import metrics, multiprocess, registry
from prometheus_client import values as client_values
from prometheus_client.metrics_core import Metric

from wsgi_prom.client.slot_values import SlotValue
from wsgi_prom.client.watched_methods import watch
from wsgi_prom.store import fork_locks
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.removal import new_number, removed_now
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MODES: Final = metrics.Gauge._MULTIPROC_MODES
# In characters. A name is made of a module and a class.
_LONGEST_NAME: Final = 200


class Asked:
    """
    A collector or a gauge, to be asked by `ask`. *name* is its name in all processes of the application, *subject* for the log.

    Several may have one name. Without a *mode* one process asks for the whole application. *identity* is the same for the same
    object.
    """

    def __init__(self, identity: object, name: str, mode: str, subject: str) -> None:
        self.identity = identity
        self.name = name
        self.mode = mode
        self.subject = subject

    def ask(self) -> Iterable[Metric]:
        raise NotImplementedError


class AskedCollector(Asked):
    """A custom collector, known by its class."""

    def __init__(self, collector: Any) -> None:
        name = _class_name(collector)
        super().__init__(id(collector), name, _mode(collector), f"the collector {name}")
        self._collector = collector

    def ask(self) -> Iterable[Metric]:
        found: Iterable[Metric] = self._collector.collect()
        return found


class AskedGauge(Asked):
    """A gauge, or a child of one, with a function."""

    def __init__(self, reference: weakref.ref[Any], gauge: Any) -> None:
        mode = gauge._multiprocess_mode
        super().__init__(reference, f"{gauge._name} {mode}", mode, f"the function of Gauge {gauge._name}")
        self._reference = reference

    def ask(self) -> Iterable[Metric]:
        gauge = self._reference()
        if gauge is None:
            return []
        labels = dict(zip(gauge._labelnames, gauge._labelvalues, strict=True))
        metric = Metric(gauge._name, gauge._documentation, "gauge")
        metric.unit = gauge._unit
        for suffix, more, value, *_ in gauge._child_samples():
            metric.add_sample(gauge._name + suffix, {**labels, **more}, value)
        return [metric]


class Collectors:
    """All that is to be asked in this process. *found* is called when there is more of it, in the thread that has made it."""

    def __init__(self) -> None:
        self.found: Callable[[], None] = lambda: None
        self._lock: Any = fork_locks.lock()
        # In the order in which they were met, which is that of their numbers in all processes.
        self._registries: dict[weakref.ref[Any], None] = {}
        self._gauges: dict[weakref.ref[Any], None] = {}
        # Registries that have a MultiProcessCollector.
        self._merging: weakref.WeakSet[Any] = weakref.WeakSet()

    def install(self, existing: Iterable[Any]) -> None:
        """Watch what is made from now on, and look at the metrics and registries that *existing* are. Call it once."""
        watch(metrics.Gauge, "set_function", self._add_gauge)
        for name in ("remove", "remove_by_labels", "clear"):
            self._watch_removal(name)
        watch(registry.CollectorRegistry, "register", self._add_registered)
        for item in existing:
            with suppress(Exception):
                if isinstance(item, registry.CollectorRegistry):
                    for collector in list(item._collector_to_names):
                        self._add_registered(item, collector)
                elif isinstance(item, metrics.Gauge) and "_child_samples" in vars(item):
                    self._add_gauge(item)

    def asked(self) -> Iterator[Asked]:
        """Yield what is to be asked now, each once."""
        with self._lock:
            # Lists first: a reference whose object is gone leaves the dict at any time.
            registries = [reference() for reference in list(self._registries)]
            gauges = [(reference, reference()) for reference in list(self._gauges)]
        seen: set[int] = set()
        for found in registries:
            for collector in _custom(found):
                if id(collector) not in seen:
                    seen.add(id(collector))
                    yield AskedCollector(collector)
        for reference, gauge in gauges:
            if gauge is not None:
                yield AskedGauge(reference, gauge)

    def beside(self, merging: Any) -> tuple[set[str], set[str]]:
        """
        Return what registries show beside *merging*, a MultiProcessCollector of theirs: the classes of custom collectors, as
        `AskedCollector` names them, and the names of metrics that the library's own mode does not merge.
        """
        found = [other for other in list(self._merging) if merging in other._collector_to_names]
        custom = {_class_name(collector) for other in found for collector in _custom(other)}
        names = {
            collector._name
            for other in found
            for collector in list(other._collector_to_names)
            if _is_unmerged(collector)
        }
        return custom, names

    def _add_registered(self, found: Any, collector: Any) -> None:
        if _is_custom(type(collector)):
            self._add(self._registries, found)
        elif issubclass(type(collector), multiprocess.MultiProcessCollector):
            self._merging.add(found)

    def _watch_removal(self, name: str) -> None:
        method = getattr(metrics.MetricWrapperBase, name, None)
        if method is None:  # an older version of the library
            return

        @wraps(method)
        def remove(metric: Any, *arguments: Any, **keywords: Any) -> Any:
            before = (
                list(getattr(metric, "_metrics", {}).values()) if isinstance(metric, metrics.Gauge) else []
            )
            result = method(metric, *arguments, **keywords)
            with suppress(Exception):
                present = set(map(id, getattr(metric, "_metrics", {}).values()))
                # They go with their references, but the garbage collector may take its time.
                for child in before:
                    if id(child) not in present:
                        self._gauges.pop(weakref.ref(child), None)
            return result

        setattr(metrics.MetricWrapperBase, name, remove)

    def _add_gauge(self, gauge: Any, *_: Any) -> None:
        _take_from_slot(gauge)
        self._add(self._gauges, gauge)

    def _add(self, kept: dict[weakref.ref[Any], None], item: Any) -> None:
        with self._lock:
            kept[weakref.ref(item, lambda gone: kept.pop(gone, None))] = None
        self.found()


def _custom(found: Any) -> Iterator[Any]:
    """Yield the custom collectors of the registry *found*, which may be gone."""
    for collector in [] if found is None else list(found._collector_to_names):
        if _is_custom(type(collector)):
            yield collector


def _is_custom(kind: type) -> bool:
    """Return whether collectors of this *kind* are neither metrics nor the client library's."""
    # By type, since asking a proxy for its class runs the application's code.
    return not issubclass(
        kind, (metrics.MetricWrapperBase, multiprocess.MultiProcessCollector)
    ) and not kind.__module__.startswith("prometheus_client.")


def _is_unmerged(collector: Any) -> bool:
    """
    Return whether the client library's multiprocess mode has nothing of this metric: an Info, an Enum, a gauge with a function.
    """
    if issubclass(type(collector), metrics.Gauge):
        children = getattr(collector, "_metrics", {}).copy().values()
        return any("_child_samples" in vars(gauge) for gauge in (collector, *children))
    return issubclass(type(collector), (metrics.Info, metrics.Enum))


def _class_name(collector: Any) -> str:
    kind = type(collector)
    return f"{kind.__module__}.{kind.__qualname__}"[:_LONGEST_NAME]


def _mode(collector: Any) -> str:
    mode = getattr(collector, "multiprocess_mode", None)
    if mode is None or mode in _MODES:
        return mode or ""
    warn_once(
        f"multiprocess_mode={mode!r} of the collector {type(collector).__qualname__} is none of "
        f"{', '.join(sorted(_MODES))}; one process asks it for the whole application."
    )
    return ""


def _take_from_slot(gauge: Any) -> None:
    """Take the row of *gauge*, whose figure is that of its function from now on, off the page, where it would be 0."""
    value = gauge._value
    gauge._value = client_values.MutexValue("gauge", gauge._name, gauge._name, (), (), "")  # type: ignore[no-untyped-call]
    row = value._row if isinstance(value, SlotValue) else None
    if row is not None:
        current_slot.part_from_parent()
        with current_slot.lock:
            # Not by a removal, which looks at all rows, and which other children of the gauge would be looked at for.
            slot = current_slot.slot
            columns, first = slot.row(*row.row)
            columns[first - 1] = removed_now()
            if isinstance(slot, SharedSlot) and not slot.removed[0]:
                slot.removed[0] = new_number()  # else nobody looks at marks
            row.detach()  # it would show the gauge again in the next slot


collectors: Final = Collectors()
