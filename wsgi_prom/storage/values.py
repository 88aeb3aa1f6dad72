"""
The value class that takes the place of prometheus_client.values.ValueClass, so that all metrics of the process, the
application's own too, are kept in its slot.

The client library makes one value for each sample: a histogram's child is a sum and then one for each bucket, a
summary's a count and a sum. Those that belong together become one block of the slot here.
"""

# Rule 1: look at `alive` before taking the lock: in a forked child the lock may be held for ever by a thread that is gone.
# Rule 2: a cell counts what its own process recorded; the column may hold more, from earlier holders of the slot, and a
#         `set` must not erase that where the client library would still count it.

from __future__ import annotations

import gc
import sys
import threading
from array import array
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.storage import format  # noqa: A004 - the module of that name is the room
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

    from wsgi_prom.storage.format import Schema
    from wsgi_prom.storage.slots import Slot

_alive: Final = lease.alive


class Cell:
    """
    A value of the client library's kind whose contributions add up: counters, sums, and most gauges.

    Thread and fork safe; increments from a signal handler or a finalizer are counted too, since no such code runs
    between the reading and the storing of one `+=` on a view (CPython from 3.10 on looks for it at calls and jumps).
    """

    __slots__ = ("_base", "_block", "_columns", "_index")

    _multiprocess = True

    def __init__(self) -> None:
        self._block: _Block | None = None
        self._columns: MutableSequence[float] = array("d", (0.0, 0.0))
        self._index = 0
        self._base = 0.0

    def inc(self, amount: float) -> None:
        if not _alive[0]:
            lease.renew()
        with lease.lock:
            self._columns[self._index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002 - the library's signature
        if not _alive[0]:
            lease.renew()
        with lease.lock:
            self._columns[self._index] = self._base + value

    def get(self) -> float:
        if not _alive[1]:
            lease.part_from_parent()
        with lease.lock:
            return self._columns[self._index] - self._base

    def set_exemplar(self, exemplar: object) -> None:
        """Exemplars belong to one process; like the client library's multiprocess mode, a slot keeps none."""

    def get_exemplar(self) -> None:
        return None

    def move(self, columns: MutableSequence[float], index: int, *, keep: bool) -> None:
        own = self._columns[self._index] - self._base if keep else 0.0
        if keep:
            # Two objects of one series share a column: the second has nothing left to bring.
            self._columns[self._index] = self._base
        self._columns, self._index = columns, index
        self._base = columns[index]
        columns[index] += own


class Own(Cell):
    """A gauge that a process sets for itself: earlier holders of the slot have no part in it."""

    __slots__ = ()

    def move(self, columns: MutableSequence[float], index: int, *, keep: bool) -> None:
        super().move(columns, index, keep=keep)
        self._base = 0.0


class Extreme(Cell):
    """A gauge of mode min or max, which dead processes take part in."""

    __slots__ = ("_choose", "_own")

    def __init__(self, choose: Any) -> None:
        super().__init__()
        self._choose = choose
        self._own = 0.0

    def inc(self, amount: float) -> None:
        if not _alive[0]:
            lease.renew()
        with lease.lock:
            self._own += amount
            self._columns[self._index] = self._choose(self._base, self._own)

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002
        if not _alive[0]:
            lease.renew()
        with lease.lock:
            self._own = value
            self._columns[self._index] = self._choose(self._base, value)

    def get(self) -> float:
        if not _alive[1]:
            lease.part_from_parent()
        return self._own

    def move(self, columns: MutableSequence[float], index: int, *, keep: bool) -> None:
        self._own = self._own if keep else 0.0
        self._columns, self._index = columns, index
        self._base = columns[index]
        columns[index] = self._choose(self._base, self._own)


class Latest(Cell):
    """A gauge of a most recent mode: the value and, in the next column, when it was set."""

    __slots__ = ()

    def set(self, value: float, timestamp: float | None = None) -> None:
        if not _alive[0]:
            lease.renew()
        with lease.lock:
            self._columns[self._index] = value
            self._columns[self._index + 1] = timestamp or 0.0

    def get(self) -> float:
        if not _alive[1]:
            lease.part_from_parent()
        with lease.lock:
            return self._columns[self._index]

    def move(self, columns: MutableSequence[float], index: int, *, keep: bool) -> None:
        value, timestamp = self._columns[self._index], self._columns[self._index + 1]
        self._columns, self._index = columns, index
        if keep and timestamp > columns[index + 1]:
            columns[index], columns[index + 1] = value, timestamp


class _Block:
    """The cells of one metric child, bound to its block of the slot."""

    __slots__ = ("__weakref__", "_cells", "_labelvalues", "_schema")

    def __init__(self, schema: Schema, labelvalues: tuple[str, ...], cells: list[Cell]) -> None:
        self._schema = schema
        self._labelvalues = labelvalues
        self._cells = cells
        for cell in cells:
            cell._block = self  # the lease refers to the block weakly, the metric to its cells
        lease.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        columns, first = slot.block(self._schema, self._labelvalues)
        with lease.lock:
            for offset, cell in enumerate(self._cells):
                cell.move(columns, first + offset, keep=keep)


class _Parts(threading.local):
    """The values of a summary or histogram child of which the library has not made the last one yet."""

    def __init__(self) -> None:
        self.child: tuple[str, tuple[str, ...]] | None = None
        self.cells: list[Cell] = []
        self.bounds: list[float] = []


_parts = _Parts()


class Value:
    """What prometheus_client.values.ValueClass is while wsgi_prom is installed. Calling it makes a cell."""

    _multiprocess = True

    def __new__(  # type: ignore[misc]
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
            return _single(format.counter(metric_name, help_text, names), values, Cell())
        if typ == "gauge":
            schema = format.gauge(metric_name, help_text, names, multiprocess_mode)
            return _single(schema, values, _gauge_cell(multiprocess_mode))
        if typ == "summary":
            return _summary_part(metric_name, name, help_text, names, values)
        if typ == "histogram":
            return _histogram_part(metric_name, name, help_text, names, values)
        # A type that the library does not have today. Its value works as in a single process.
        return _client_values().MutexValue(typ, metric_name, name, labelnames, labelvalues, help_text)


def install() -> None:
    """
    Put `Value` in the place of the client library's value class, also for the metrics that exist already.

    Does nothing when it is done already. Call it before other threads record: an increment that runs meanwhile in one
    of those metrics may be lost.
    """
    values = _client_values()
    if values.ValueClass is not Value:
        values.ValueClass = Value
        _adopt_existing()


def _client_values() -> Any:
    # Imported late: `import wsgi_prom` does not pay for it (56 ms), an application that has metrics does.
    from prometheus_client import values  # noqa: PLC0415

    return values


def _adopt_existing() -> None:
    from prometheus_client import metrics  # noqa: PLC0415

    # Metrics of any registry or none: in multiprocess mode the library counts them all. By type, since asking a
    # proxy for its class (Werkzeug's LocalProxy) runs the application's code.
    for metric in [item for item in gc.get_objects() if issubclass(type(item), metrics.MetricWrapperBase)]:
        names, values, help_text = metric._labelnames, metric._labelvalues, metric._documentation
        if names and not values:
            continue
        arguments = (metric._type, metric._name)
        if isinstance(metric, (metrics.Counter, metrics.Gauge)):
            suffix = "_total" if isinstance(metric, metrics.Counter) else ""
            mode = getattr(metric, "_multiprocess_mode", "")
            fresh = Value(*arguments, metric._name + suffix, names, values, help_text, multiprocess_mode=mode)
            metric._value = _take_over(metric._value, fresh)
        elif isinstance(metric, metrics.Summary):
            for attribute, suffix in (("_count", "_count"), ("_sum", "_sum")):
                fresh = Value(*arguments, metric._name + suffix, names, values, help_text)
                setattr(metric, attribute, _take_over(getattr(metric, attribute), fresh))
        elif isinstance(metric, metrics.Histogram):
            fresh = Value(*arguments, metric._name + "_sum", names, values, help_text)
            buckets = [
                Value(*arguments, metric._name + "_bucket", (*names, "le"), (*values, str(bound)), help_text)
                for bound in metric._upper_bounds
            ]
            metric._sum = _take_over(metric._sum, fresh)
            metric._buckets = [_take_over(*pair) for pair in zip(metric._buckets, buckets, strict=True)]


def _take_over(old: Any, fresh: Cell) -> Cell:
    value = old.get()
    if value:
        if isinstance(fresh, Latest):
            # The library does not say when this was set. Before anything that is set from now on.
            fresh.set(value, sys.float_info.min)
        else:
            fresh.set(value)
        old.set(0.0)  # a file of the library's own multiprocess mode is merged too: not twice
    return fresh


def _gauge_cell(mode: str) -> Cell:
    if mode.endswith("mostrecent"):
        return Latest()
    if mode in ("min", "max"):
        return Extreme(min if mode == "min" else max)
    return Cell() if mode == "sum" else Own()


def _single(schema: Schema, labelvalues: tuple[str, ...], cell: Cell) -> Cell:
    _Block(schema, labelvalues, [cell])
    return cell


def _summary_part(
    metric_name: str, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]
) -> Cell:
    child = (metric_name, values)
    if _parts.child != child:
        _parts.child, _parts.cells = child, []
    cell = Cell()
    # The order of the columns is the schema's, whatever order the library makes the values in.
    _parts.cells.insert(0 if name.endswith("_count") else len(_parts.cells), cell)
    if len(_parts.cells) == 2:
        _Block(format.summary(metric_name, help_text, names), values, _parts.cells)
        _parts.child = None
    return cell


def _histogram_part(
    metric_name: str, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]
) -> Cell:
    bucket = name.endswith("_bucket")
    labels = values[:-1] if bucket else values
    if _parts.child != (metric_name, labels):
        _parts.child, _parts.cells, _parts.bounds = (metric_name, labels), [], []
    cell = Cell()
    if not bucket:
        _parts.cells.insert(0, cell)
        return cell
    _parts.cells.append(cell)
    _parts.bounds.append(float(values[-1]))
    if _parts.bounds[-1] == float("inf"):  # the library always makes it, and makes it last
        schema = format.histogram(metric_name, help_text, names[:-1], tuple(_parts.bounds))
        _Block(schema, labels, _parts.cells)
        _parts.child = None
    return cell
