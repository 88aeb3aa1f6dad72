"""
The values that the client library's metrics record into, each a column of the process's slot, or two.

1. `fork_guard` is looked at before the lock is taken: in a forked child a thread that is gone may hold it for ever.
2. A value counts what its own process recorded. The column may hold more, from earlier owners of the slot, which a
   `set` must not erase where the client library would still count it.
3. A signal handler or a finalizer may record in the middle of a record or a move. Between reading
   a figure and storing it CPython runs neither, or the stored figure is looked at again.
"""

from __future__ import annotations

import math
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.samples import Exemplar

from wsgi_prom.store import text_labels
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.text_format import Text
from wsgi_prom.store.texts import texts

if TYPE_CHECKING:
    from wsgi_prom.client.values import ChildRow
    from wsgi_prom.store.memory_slot import Columns


_fork_guard: Final = current_slot.fork_guard


class SlotValue:
    """
    A value whose contributions add up: counters, sums, and gauges of mode `sum`.

    Thread and fork safe; increments from a signal handler or a finalizer are counted too.
    """

    __slots__ = ("_base", "_columns", "_index", "_row")

    _multiprocess = True
    # Whether earlier owners of the slot have a part in the column.
    _continues = True

    def __init__(self) -> None:
        self._row: ChildRow | None = None  # the metric refers to its values, and they to their row
        self._columns: Columns = array("d", (0.0, 0.0))
        self._index = 0
        self._base = 0.0  # what earlier owners of the slot have recorded

    def inc(self, amount: float) -> None:
        if not _fork_guard[0]:
            current_slot.prepare()
        kind = type(amount)
        # A type of another kind may run Python code in `__radd__`.
        if current_slot.token is not False and (kind is float or kind is int):
            self._columns[self._index] += amount
            return
        with current_slot.lock:
            self._columns[self._index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        if not _fork_guard[0]:
            current_slot.prepare()
        with current_slot.lock:
            self._store(value, timestamp or 0.0)

    def get(self) -> float:
        if not _fork_guard[1]:
            current_slot.part_from_parent()
        with current_slot.lock:
            return self._columns[self._index] - self._base

    def _store(self, value: float, _timestamp: float) -> None:
        """Store what the process has set. The caller holds the lock."""
        # Not always the sum: that of 0.0 and -0.0 is 0.0.
        self._columns[self._index] = self._base + value if self._base else value

    def set_exemplar(self, exemplar: Any) -> None:
        """Keep it in the slot, for pages in OpenMetrics: of all processes, the latest is shown. Never raises."""
        with suppress(Exception):
            if self._row is not None and not self._row.is_removed():
                text = Text(
                    float(exemplar.timestamp), float(exemplar.value), text_labels.dump(exemplar.labels)
                )
                texts.put(*self._row.column_of(self), text)

    def get_exemplar(self) -> Exemplar | None:
        """Return the last one of this process."""
        found = None
        with suppress(ValueError):  # its row is removed
            found = None if self._row is None else texts.get(*self._row.column_of(self))
        return (
            None if found is None else Exemplar(dict(text_labels.load(found.text)), found.value, found.time)
        )

    def detach(self) -> None:
        """Record to nothing from now on. The caller holds the lock."""
        nothing = array("d", (0.0, 0.0))
        self._columns, self._index = nothing, 0

    def is_in(self, columns: Columns) -> bool:
        return self._columns is columns

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        """Record into *columns* from now on, see `Binding.bind`. The caller holds the lock."""
        # A sum that is infinite or NaN says nothing of its terms, and stays where it is.
        known = keep and math.isfinite(self._base)
        own = self._columns[self._index] - self._base if known else 0.0
        if keep:
            # Two objects of one label set share a column: the second has nothing left to bring.
            self._columns[self._index] = self._base
        self._columns, self._index = columns, index
        # In memory there are no earlier owners: the first of two objects of one label set takes all along.
        self._base = columns[index] if self._continues and type(columns) is not array else 0.0
        columns[index] += own


class LiveValue(SlotValue):
    """
    A gauge of a living process, which earlier owners of the slot have no part in.

    With *flagged* the next column says that this process has the gauge.
    """

    __slots__ = ("_flagged",)

    _continues = False

    def __init__(self, *, flagged: bool) -> None:
        super().__init__()
        self._flagged = flagged

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        super().move(columns, index, keep=keep)
        if self._flagged:
            columns[index + 1] = 1.0


class OwnValue(SlotValue):
    """A gauge of a mode that does not add up, which keeps the figure of this process beside the column."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        super().__init__()
        self._own = 0.0

    def get(self) -> float:
        if not _fork_guard[1]:
            current_slot.part_from_parent()
        return self._own


class ExtremeValue(OwnValue):
    """A gauge of mode min or max, in which ended processes count too. The next column says that there is one."""

    __slots__ = ("_choose", "_nothing")

    def __init__(self, choose: Any, nothing: float) -> None:
        super().__init__()
        self._choose = choose
        self._base = self._nothing = nothing  # what leaves the choice to the process's own value

    def inc(self, amount: float) -> None:
        if not _fork_guard[0]:
            current_slot.prepare()
        with current_slot.lock:
            self._own += amount
            self._show()

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        if keep:  # the former column is to say what it says without this process
            known = self._base != self._nothing
            self._columns[self._index] = self._base if known else 0.0
            self._columns[self._index + 1] = float(known)
        else:
            self._own = 0.0
        self._base = columns[index] if columns[index + 1] else self._nothing
        self._columns, self._index = columns, index
        columns[index + 1] = 1.0
        self._show()

    def _store(self, value: float, _timestamp: float) -> None:
        self._own = value
        self._show()

    def _show(self) -> None:
        own = None
        while own is not self._own:  # a handler has stored a newer one, which this has overwritten
            own = self._own
            # In this order: NaN is neither less nor greater than what there may be nothing of.
            self._columns[self._index] = self._choose(own, self._base)


class LatestValue(OwnValue):
    """A gauge of a most recent mode: the value and, in the next column, when it was set."""

    __slots__ = ()

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        if keep:
            value, timestamp = self._columns[self._index], self._columns[self._index + 1]
            if timestamp > columns[index + 1]:
                columns[index], columns[index + 1] = value, timestamp
        else:
            self._own = 0.0
        self._columns, self._index = columns, index

    def _store(self, value: float, timestamp: float) -> None:
        self._own = value
        self._columns[self._index] = value
        self._columns[self._index + 1] = timestamp
