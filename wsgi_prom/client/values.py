"""
The value class that takes the place of prometheus_client.values.ValueClass, so that all metrics of the process, the
application's own too, are kept in its slot.

The client library makes one value for each sample: a histogram's child is a sum and then one for each bucket, a
summary's a count and a sum. Those that belong together become one row of the slot here.
"""

from __future__ import annotations

import threading
from array import array
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.client.cells import Cell, Extreme, Latest, Live, Own
from wsgi_prom.store import file_format
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_prom.store.file_format import Schema
    from wsgi_prom.store.slots import Slot


class _Row:
    """The cells of one metric child, bound to its row of the slot."""

    __slots__ = ("__weakref__", "_cells", "_labelvalues", "_schema")

    def __init__(self, schema: Schema, labelvalues: tuple[str, ...], cells: list[Cell]) -> None:
        self._schema = schema
        self._labelvalues = labelvalues
        self._cells = cells
        for cell in cells:
            cell._row = self  # the current slot refers to the row weakly, the metric to its cells
        current_slot.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        columns, first = slot.row(self._schema, self._labelvalues)
        with current_slot.lock:
            for offset, cell in enumerate(self._cells):
                cell.move(columns, first + offset, keep=keep)

    def forget(self) -> None:
        for cell in self._cells:
            cell.forget()

    def settle(self, slot: Slot) -> None:
        kept = self._cells[0]._columns
        if isinstance(kept, array):
            columns, _ = slot.row(self._schema, self._labelvalues)
            if columns is not kept:
                self.bind(slot, keep=True)


# One that was never finished, since an exception came in between, is not kept for ever.
_UNFINISHED: Final = 16


class _Child:
    """The cells that the library has made so far of a summary or histogram child, by what they count."""

    def __init__(self, key: tuple[str, tuple[str, ...]]) -> None:
        self.key = key
        self.cells: dict[str, Cell] = {}
        self.bounds: list[float] = []


class _Unfinished(threading.local):
    """
    Children of which the library has not made the last value yet, the innermost last.

    Several: a signal handler or a finalizer may make one, even the same, in the middle of another.
    """

    def __init__(self) -> None:
        self._children: list[_Child] = []

    def add(self, name: str, labelvalues: tuple[str, ...], part: str | None) -> tuple[Cell, _Child]:
        """Return a new cell for *part* of a child, by default its next bucket, and the child that it is of."""
        key, cell = (name, labelvalues), Cell()
        found = next((c for c in reversed(self._children) if c.key == key and part not in c.cells), None)
        if found is not None:
            found.cells[part or f"bucket {len(found.cells)}"] = cell
            return cell, found
        found = _Child(key)
        # Before anybody sees it: who makes the same in the middle of this would take the first place in it.
        found.cells[part or "bucket 0"] = cell
        self._children = [*self._children[-_UNFINISHED:], found]
        return cell, found

    def finish(self, child: _Child) -> None:
        self._children = [other for other in self._children if other is not child]


_unfinished = _Unfinished()


class Value:
    """What prometheus_client.values.ValueClass is while wsgi_prom is installed. Calling it makes a cell."""

    _multiprocess = True

    def __new__(
        cls,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> Any:
        names, values = tuple(labelnames), tuple(labelvalues)
        if typ == "counter":
            return _single(file_format.counter(metric_name, help_text, names), values, Cell())
        if typ == "gauge":
            schema = file_format.gauge(metric_name, help_text, names, multiprocess_mode)
            return _single(schema, values, _gauge_cell(multiprocess_mode))
        if typ == "summary":
            return _summary_part(metric_name, name, help_text, names, values)
        if typ == "histogram":
            return _histogram_part(metric_name, name, help_text, names, values)
        # A type that the library does not have today. Its value works as in a single process.
        from prometheus_client.values import MutexValue  # noqa: PLC0415 - in use already, by whoever calls

        return MutexValue(typ, metric_name, name, labelnames, labelvalues, help_text)  # type: ignore[no-untyped-call]


def _gauge_cell(mode: str) -> Cell:
    if mode.endswith("mostrecent"):
        return Latest()
    if mode in ("min", "max"):
        return Extreme(min, float("inf")) if mode == "min" else Extreme(max, float("-inf"))
    if mode == "sum":
        return Cell()
    return Live() if mode == "livesum" else Own()


def _single(schema: Schema, labelvalues: tuple[str, ...], cell: Cell) -> Cell:
    _Row(schema, labelvalues, [cell])
    return cell


def _summary_part(
    metric_name: str, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]
) -> Cell:
    part = "count" if name.endswith("_count") else "sum"
    cell, child = _unfinished.add(metric_name, values, part)
    if len(child.cells) == 2:
        # The order of the columns is the schema's, whatever order the library makes the values in.
        cells = [child.cells["count"], child.cells["sum"]]
        _Row(file_format.summary(metric_name, help_text, names), values, cells)
        _unfinished.finish(child)
    return cell


def _histogram_part(
    metric_name: str, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]
) -> Cell:
    if not name.endswith("_bucket"):
        # The library makes it first.
        return _unfinished.add(metric_name, values, "sum")[0]
    labels = values[:-1]
    cell, child = _unfinished.add(metric_name, labels, None)
    child.bounds.append(float(values[-1]))
    if child.bounds[-1] == float("inf"):  # the library always makes it, and makes it last
        schema = file_format.histogram(metric_name, help_text, names[:-1], tuple(child.bounds))
        _Row(schema, labels, [*child.cells.values()])
        _unfinished.finish(child)
    return cell
