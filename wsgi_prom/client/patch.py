"""
Replaces parts of the client library: its value class, its locks, and its multiprocess collector.

An application's own metrics work in any order of imports: those that exist already are taken over. Its code for the
library's multiprocess mode gets its answers from the slots.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import metrics, multiprocess, registry
from prometheus_client import values as client_values

from wsgi_prom.client import info, merged_metrics, remove_methods, states, units
from wsgi_prom.client.asking_thread import asking_thread
from wsgi_prom.client.custom_collectors import collectors
from wsgi_prom.client.merged_metrics import MergedMetric
from wsgi_prom.client.slot_values import LatestValue, SlotValue
from wsgi_prom.client.values import Value
from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory, directory_files, environment, fork_locks
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry


def install() -> None:
    """
    Put `Value` in the place of the client library's value class, also for the metrics that exist already.

    Does nothing when it is done already. Call it before other threads record: an increment that runs meanwhile in one
    of those metrics may be lost.
    """
    if client_values.ValueClass is not Value:
        client_values.ValueClass = Value
        path = current_slot.directory
        if path is not None and path != environment.configured():
            environment.show(path)  # another interpreter of the server, whose environment does not have it
        existing = [item for item in gc.get_objects() if _is_of_client(type(item))]
        fork_locks.replace((metrics, registry, client_values), existing)
        units.install()
        _adopt([item for item in existing if isinstance(item, metrics.MetricWrapperBase)])
        _remove_own_client_files()
        info.install(existing)
        states.install(existing)
        remove_methods.install()
        collectors.install(existing)  # which looks at what is removed
        asking_thread.install()
        merged_metrics.install()
        metrics.MetricWrapperBase.labels = _with_fast_path(metrics.MetricWrapperBase.labels)  # type: ignore[method-assign]
        collector: Any = multiprocess.MultiProcessCollector
        collector.__init__, collector.collect = _init, _collect
        collector.merge = staticmethod(_with_warning(collector.merge))


def names_in_registry() -> set[str]:
    """Return the names of samples that metrics in the client library's default registry may have."""
    found = registry.REGISTRY._collector_to_names.items()
    return {
        name for metric, names in found if isinstance(metric, metrics.MetricWrapperBase) for name in names
    }


def _is_of_client(kind: type) -> bool:
    # By type, since asking a proxy for its class (Werkzeug's LocalProxy) runs the application's code. The registry's
    # is abstract, and looks for any type's hash, which a metaclass may refuse.
    try:
        return issubclass(kind, (metrics.MetricWrapperBase, registry.CollectorRegistry))
    except Exception:
        return False


def _with_fast_path(labels: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return the library's *labels* with a shorter way to a child that exists: without its lock and its calls of str().

    Those are two thirds of the cost of `Counter.labels(...).inc()`. A look-up in a dict is one operation, in any thread.
    """
    removals = current_slot.removals

    @wraps(labels)
    def labels_or_child(self: Any, *labelvalues: Any, **labelkwargs: Any) -> Any:
        if removals.word[0] != removals.seen:
            remove_methods.forget_removed()
        for value in labelvalues:
            if type(value) is not str:  # an Enum of texts is not the text that the library makes of it
                return labels(self, *labelvalues, **labelkwargs)
        # A metric that is a child itself has none.
        child = None if labelkwargs else getattr(self, "_metrics", {}).get(labelvalues)
        if child is not None:
            return child
        remove_methods.register(self)
        return labels(self, *labelvalues, **labelkwargs)

    return labels_or_child


def _adopt(existing: list[Any]) -> None:
    # Metrics of any registry or none: in multiprocess mode the library counts them all.
    for metric in existing:
        units.note(metric)
        if metric._labelnames and not metric._labelvalues:
            remove_methods.register(metric)
            continue  # the parent of children, which has no value
        if isinstance(metric, metrics.Counter):
            metric._value = _take_over(metric._value, _value(metric, "_total"))
        elif isinstance(metric, metrics.Gauge):
            metric._value = _take_over(metric._value, _value(metric, "", mode=metric._multiprocess_mode))
        elif isinstance(metric, metrics.Summary):
            metric._count = _take_over(metric._count, _value(metric, "_count"))
            metric._sum = _take_over(metric._sum, _value(metric, "_sum"))
        elif isinstance(metric, metrics.Histogram):
            total = _value(metric, "_sum")
            buckets = [_value(metric, "_bucket", bound=bound) for bound in metric._upper_bounds]
            # After all are made: only then are they the columns of a row.
            metric._sum = _take_over(metric._sum, total)
            metric._buckets = [_take_over(*pair) for pair in zip(metric._buckets, buckets, strict=True)]


def _remove_own_client_files() -> None:
    # Where the environment named a directory before the library was imported, its metrics made files there. What was
    # in them is in our values now.
    path = current_slot.directory and (environment.configured() or current_slot.directory)
    if path is None:
        return
    with suppress(OSError, DirectoryError), directory_files.opened(path) as folder:
        for name in directory.client_files(folder):
            if name.endswith(f"_{os.getpid()}.db"):
                os.unlink(name, dir_fd=folder)
    # Afterwards: a file that nobody has open is added to the archive. From prometheus-client 0.26 on; without it the
    # removed files stay open until the process ends.
    getattr(client_values, "close_all_multiprocess_files", int)()


def _value(metric: Any, suffix: str, *, mode: str = "", bound: float | None = None) -> SlotValue:
    names, values = metric._labelnames, metric._labelvalues
    if bound is not None:
        names, values = (*names, "le"), (*values, str(bound))
    found: SlotValue = Value(
        metric._type,
        metric._name,
        metric._name + suffix,
        names,
        values,
        metric._documentation,
        multiprocess_mode=mode,
    )
    return found


def _take_over(old: Any, fresh: SlotValue) -> Any:
    value = old.get()
    if value:
        # The library does not say when a gauge was set: before anything that is set from now on.
        fresh.set(value, sys.float_info.min if isinstance(fresh, LatestValue) else None)
    return fresh


def _init(self: Any, registry: CollectorRegistry | None, path: str | None = None) -> None:
    # Unlike the library, do not ask for the directory yet: before a server starts, it is not made.
    self._path = path
    self._lock = fork_locks.lock()
    self._merged = None
    if registry:
        registry.register(self)


def _collect(self: Any) -> Iterable[Metric]:
    path = directory_files.own_directory(Path(self._path)) if self._path else current_slot.directory
    if path is None:
        return []
    if not hasattr(self, "_lock"):
        _init(self, None, self._path)  # made before the installation
    from wsgi_prom.merge import archiving, collector  # noqa: PLC0415 - 17 ms that a worker need not pay

    with self._lock:
        # Anew in a child: a thread of the parent may have been in the middle of a scrape.
        key = path, os.getpid()
        if self._merged is None or self._merged[0] != key:
            self._merged = key, collector.Collector(path), archiving.Archiver(path)
        self._merged[2].archive_ended()
        try:
            classes, names = collectors.beside(self)
            found = self._merged[1].collect(without=classes).to_metrics()
            return [MergedMetric.of(metric) for metric in found if metric.name not in names]
        except DirectoryError:
            return []  # as the library shows a directory that has no files


def _with_warning(merge: Callable[..., Any]) -> Callable[..., Any]:
    """Return the library's *merge*, which says once that it merges its own files alone."""

    @wraps(merge)
    def merge_files(*arguments: Any, **keywords: Any) -> Any:
        # Not answered with all there is: applications merge the files of one dead worker, and write the result back.
        warn_once(
            "MultiProcessCollector.merge(files) knows the files of processes without wsgi_prom alone; those of this "
            "server are not in its result. Use MultiProcessCollector(registry), which has them."
        )
        return merge(*arguments, **keywords)

    return merge_files
