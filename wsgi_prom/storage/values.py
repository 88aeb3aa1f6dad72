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

import threading
from array import array
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.storage import format  # noqa: A004 - the module of that name is the room
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_prom.storage.format import Schema
    from wsgi_prom.storage.slots import Columns, Slot

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
        self._columns: Columns = array("d", (0.0, 0.0))
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

    def forget(self) -> None:
        self._base = 0.0

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        own = self._columns[self._index] - self._base if keep else 0.0
        if keep:
            # Two objects of one series share a column: the second has nothing left to bring.
            self._columns[self._index] = self._base
        self._columns, self._index = columns, index
        self._base = columns[index]
        columns[index] += own


class Live(Cell):
    """A gauge that adds up over living processes: earlier holders of the slot have no part in it."""

    __slots__ = ()

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        super().move(columns, index, keep=keep)
        self._base = 0.0


class Own(Live):
    """A gauge that a process sets for itself. The next column tells that it has one."""

    __slots__ = ()

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        super().move(columns, index, keep=keep)
        columns[index + 1] = 1.0


class Extreme(Cell):
    """A gauge of mode min or max, which dead processes take part in."""

    __slots__ = ("_choose", "_nothing", "_own")

    def __init__(self, choose: Any, nothing: float) -> None:
        super().__init__()
        self._choose = choose
        self._base = self._nothing = nothing  # what leaves the choice to the process's own value
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

    def forget(self) -> None:
        self._base = self._nothing

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        self._own = self._own if keep else 0.0
        self._columns, self._index = columns, index
        self._base = columns[index] if columns[index + 1] else self._nothing
        columns[index], columns[index + 1] = self._choose(self._base, self._own), 1.0


class Latest(Cell):
    """A gauge of a most recent mode: the value and, in the next column, when it was set."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        super().__init__()
        self._own = 0.0

    def set(self, value: float, timestamp: float | None = None) -> None:
        if not _alive[0]:
            lease.renew()
        with lease.lock:
            self._own = value
            self._columns[self._index] = value
            self._columns[self._index + 1] = timestamp or 0.0

    def get(self) -> float:
        if not _alive[1]:
            lease.part_from_parent()
        return self._own

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        value, timestamp = self._columns[self._index], self._columns[self._index + 1]
        self._own = self._own if keep else 0.0
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

    def forget(self) -> None:
        for cell in self._cells:
            cell.forget()

    def settle(self, slot: Slot) -> None:
        kept = self._cells[0]._columns
        if isinstance(kept, array):
            columns, _ = slot.block(self._schema, self._labelvalues)
            if columns is not kept:
                self.bind(slot, keep=True)


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
            return _single(format.counter(metric_name, help_text, names), values, Cell())
        if typ == "gauge":
            schema = format.gauge(metric_name, help_text, names, multiprocess_mode)
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
