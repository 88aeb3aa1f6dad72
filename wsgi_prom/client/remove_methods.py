"""
`remove()`, `remove_by_labels()` and `clear()` of the client library's metrics, for all processes that share the directory.

A process forgets what others have removed before it next looks for a label set: it lets go of the rows, and drops the
children from their metrics, so that `labels()` makes new ones. Child objects that the application has kept record to nothing.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import metrics

from wsgi_prom.client.bound_row import ROW
from wsgi_prom.client.slot_values import SlotValue
from wsgi_prom.store import removal
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.removal import Removal
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.client.bound_row import BoundRow

# By identity: the metrics that have children. A subclass of an application's may have no hash.
_parents: Final[dict[int, weakref.ref[Any]]] = {}


def install() -> None:
    """Put these in the place of the client library's. Call it once."""
    kind: Any = metrics.MetricWrapperBase
    kind.remove, kind.remove_by_labels, kind.clear = _remove, _remove_by_labels, _clear


def register(parent: Any) -> None:
    """Register *parent*, which has children or is to have some, for removals to find."""
    identity = id(parent)
    if identity not in _parents and hasattr(parent, "_metrics"):
        _parents[identity] = weakref.ref(parent, lambda _: _parents.pop(identity, None))


def forget_removed() -> None:
    """Make all metrics forget the children whose rows were removed. Never raises."""
    try:
        _forget_removed()
    except Exception as error:
        # Once: it is tried at each `labels()` until it succeeds.
        warn_once(
            "what other processes have removed is not forgotten here", f"{type(error).__name__}: {error}"
        )


def _forget_removed() -> None:
    current_slot.part_from_parent()
    number = current_slot.removals.word[0]
    for parent in [reference() for reference in list(_parents.values())]:
        if parent is not None:
            with parent._lock:
                found = [(labels, child) for labels, child in parent._metrics.items() if _is_removed(child)]
                _forget(parent, found)
    # At last: a thread that finds it seen finds nothing that was removed.
    current_slot.removals.seen = number


def _remove(self: Any, *labelvalues: Any) -> None:
    names = _label_names(self)
    if len(labelvalues) != len(names):
        raise ValueError(f"Incorrect label count (expected {len(names)}, got {labelvalues})")
    _remove_all(self, dict(zip(names, map(str, labelvalues), strict=True)), exact=True)


def _remove_by_labels(self: Any, labels: dict[str, str]) -> None:
    names = _label_names(self)
    if not isinstance(labels, dict):
        raise TypeError("labels must be a dict of {label_name: label_value}")
    unknown = [name for name in labels if name not in names]
    if unknown:
        raise ValueError(f"Unknown label names: {unknown}; expected {names}")
    if labels:
        _remove_all(self, {name: str(value) for name, value in labels.items()})


def _clear(self: Any) -> None:
    if self._labelnames:
        _remove_all(self, {})


def _label_names(metric: Any) -> tuple[str, ...]:
    if not metric._labelnames:
        raise ValueError(f"No label names were set when constructing {metric}")
    return tuple(metric._labelnames)


def _remove_all(metric: Any, labels: dict[str, str], *, exact: bool = False) -> None:
    """Remove the label sets of *metric* that have *labels*, from every process."""
    wanted = [(metric._labelnames.index(name), value) for name, value in labels.items()]
    with metric._lock:
        found = [
            (values, child)
            for values, child in metric._metrics.items()
            if all(values[position] == value for position, value in wanted)
        ]
        _forget(metric, found)
    try:
        problems = _remove_rows(Removal(metric._type, metric._name, labels, exact))
    except Exception as error:
        problems = [f"other processes: {error}"]
    for problem in problems:
        warn_once(f"label sets of {metric._name} are not removed from {problem}")
    forget_removed()


def _remove_rows(wanted: Removal) -> list[str]:
    slot = current_slot.remove(wanted)
    path = slot.path or current_slot.directory
    return [] if path is None else removal.remove_from_others(path, getattr(slot, "number", None), wanted)


def _forget(parent: Any, children: Iterable[tuple[tuple[str, ...], Any]]) -> None:
    """Drop *children* from *parent*, whose lock the caller holds."""
    for labels, child in children:
        parent._metrics.pop(labels, None)
        row = _row(child)
        if row is not None:
            with current_slot.lock:
                row.detach()


def _is_removed(child: Any) -> bool:
    row = _row(child)
    return row is not None and row.is_removed()


def _row(child: Any) -> BoundRow | None:
    """Return the row of *child*, None if it has none: a gauge with a function, or a type that is not kept in slots."""
    found: Any = getattr(child, ROW, None)
    for name in ("_value", "_sum"):
        value = getattr(child, name, None)
        if isinstance(value, SlotValue):
            found = value._row
    row: BoundRow | None = found
    return row
