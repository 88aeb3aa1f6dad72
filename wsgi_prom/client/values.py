"""
The value class that takes the place of prometheus_client.values.ValueClass, so that all metrics of the process, the
application's own too, are kept in its slot.

The client library makes one value for each sample: a histogram's child is a sum and then one for each bucket, a
summary's a count and a sum. Those that belong together become one row of the slot here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.values import MutexValue

from wsgi_prom.client import units
from wsgi_prom.client.bound_row import BoundRow
from wsgi_prom.client.slot_values import ExtremeValue, LatestValue, LiveValue, SlotValue
from wsgi_prom.store import schemas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_prom.store.memory_slot import Columns
    from wsgi_prom.store.schemas import Row, Schema


class ChildRow(BoundRow):
    """The values of one metric child, bound to its row of the slot."""

    __slots__ = ("_values",)

    def __init__(self, schema: Schema, labelvalues: tuple[str, ...], values: list[SlotValue]) -> None:
        self._values = values
        for value in values:
            value._row = self  # the current slot refers to the row weakly, the metric to its values
        super().__init__((schema, labelvalues))

    def column_of(self, value: SlotValue) -> tuple[Row, int]:
        """Return the row, and which of its columns *value* is. Raises ValueError if the row is removed."""
        return self.row, self._values.index(value)

    def move(self, columns: Columns, first: int, *, keep: bool) -> None:
        for index, value in enumerate(self._values, start=first):
            if not value.is_in(columns):
                value.move(columns, index, keep=keep)

    def detach(self) -> None:
        super().detach()
        for value in self._values:
            value.detach()
        # The values refer to this: what the application no longer has goes at once.
        self._values = []


class _Child:
    """The values that the library has made so far of a summary or histogram child, by what they count."""

    def __init__(self, key: tuple[str, tuple[str, ...]]) -> None:
        self.key = key
        self.values: dict[str, SlotValue] = {}
        self.bounds: list[float] = []


class _Unfinished(threading.local):
    """
    Children of which the library has not made the last value yet, the innermost last.

    Several: a signal handler or a finalizer may make one, even the same, in the middle of another.
    """

    # One that was never finished, since an exception came in between, is not kept for ever.
    _MOST: Final = 16

    def __init__(self) -> None:
        self._children: list[_Child] = []

    def add(self, name: str, labelvalues: tuple[str, ...], part: str | None) -> tuple[SlotValue, _Child]:
        """Return a new value for *part* of a child, by default its next bucket, and the child that it is of."""
        key, value = (name, labelvalues), SlotValue()
        for child in reversed(self._children):
            if child.key == key and part not in child.values:
                child.values[part or f"bucket {len(child.values)}"] = value
                return value, child
        child = _Child(key)
        # Before the child is in the list: a signal handler that makes the same child would take its first value.
        child.values[part or "bucket 0"] = value
        self._children = [*self._children[-self._MOST :], child]
        return value, child

    def finish(self, child: _Child) -> None:
        self._children = [other for other in self._children if other is not child]


_unfinished = _Unfinished()


class Value:
    """Takes the place of prometheus_client.values.ValueClass. Calling it makes a `SlotValue`."""

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
        unit = units.unit(metric_name)
        if typ == "counter":
            return _single(schemas.counter(metric_name, help_text, names, unit=unit), values, SlotValue())
        if typ == "gauge":
            schema = schemas.gauge(metric_name, help_text, names, multiprocess_mode, unit=unit)
            return _single(schema, values, _gauge_value(multiprocess_mode))
        if typ == "summary":
            return _summary_part(metric_name, name, help_text, names, values)
        if typ == "histogram":
            return _histogram_part(metric_name, name, help_text, names, values)
        # A type that the library does not have today. Its value works as in a single process.
        return MutexValue(typ, metric_name, name, labelnames, labelvalues, help_text)  # type: ignore[no-untyped-call]


def _gauge_value(mode: str) -> SlotValue:
    if mode.endswith("mostrecent"):
        return LatestValue()
    if mode in ("min", "max"):
        return ExtremeValue(min, float("inf")) if mode == "min" else ExtremeValue(max, float("-inf"))
    return SlotValue() if mode == "sum" else LiveValue(flagged=mode != "livesum")


def _single(schema: Schema, labelvalues: tuple[str, ...], value: SlotValue) -> SlotValue:
    ChildRow(schema, labelvalues, [value])
    return value


def _summary_part(
    metric_name: str, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]
) -> SlotValue:
    part = "count" if name.endswith("_count") else "sum"
    value, child = _unfinished.add(metric_name, values, part)
    if len(child.values) == 2:
        # The order of the columns is the schema's, whatever order the library makes the values in.
        both = [child.values["count"], child.values["sum"]]
        schema = schemas.summary(metric_name, help_text, names, unit=units.unit(metric_name))
        ChildRow(schema, values, both)
        _unfinished.finish(child)
    return value


def _histogram_part(
    metric_name: str, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]
) -> SlotValue:
    if not name.endswith("_bucket"):
        # The library makes it first.
        return _unfinished.add(metric_name, values, "sum")[0]
    labels = values[:-1]
    value, child = _unfinished.add(metric_name, labels, None)
    child.bounds.append(float(values[-1]))
    if child.bounds[-1] == float("inf"):  # the library always makes it, and makes it last
        unit = units.unit(metric_name)
        schema = schemas.histogram(metric_name, help_text, names[:-1], tuple(child.bounds), unit=unit)
        ChildRow(schema, labels, [*child.values.values()])
        _unfinished.finish(child)
    return value
