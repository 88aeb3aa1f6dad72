"""The row of the slot that a metric of the client library records into. Any process may remove it at any time."""

from __future__ import annotations

import math
import time
from array import array
from typing import TYPE_CHECKING, Final

from wsgi_prom.store.bindings import RemovableBinding
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.texts import texts

if TYPE_CHECKING:
    from wsgi_prom.store.memory_slot import Columns, Slot
    from wsgi_prom.store.schemas import Row

# The attribute of an Info or an Enum that holds its row.
ROW: Final = "_wsgi_prom_row"
# The start time of a row that this process has let go of.
_REMOVED: Final = array("d", (-math.inf,))


class BoundRow(RemovableBinding):
    """The row of one label set, bound to the current slot; a `wsgi_prom.store.bindings.Binding`."""

    __slots__ = ("__weakref__", "_columns", "_made", "_start", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        # The columns of a slot, and the index of the row's start time.
        self._columns: Columns = array("d", (math.inf,))
        self._start = 0
        self._made = math.inf
        current_slot.add(self)
        self._made = time.time()

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """See `Binding`."""
        if self._columns is _REMOVED or (keep and self.is_removed()):
            current_slot.removals.alert()  # its metric is to forget it
            return
        columns, first = slot.row(*self.row)
        start = first - 1
        if self._columns is columns and self._start == start:
            return
        if self._made <= -columns[start]:
            # The label set was removed after this row was made: in a fork of a process that had no slot, and so was not told.
            self.detach()
            current_slot.removals.alert()
            return
        if columns[start] < 0:
            _use_again(columns, first, self.row[0].width)
        self.move(columns, first, keep=keep)
        # The values that go along were counted since the former row was made.
        if keep and self._columns[self._start] < columns[start]:
            columns[start] = self._columns[self._start]
        self._columns, self._start = columns, start

    def move(self, columns: Columns, first: int, *, keep: bool) -> None:
        """Record into *columns* from *first* on; see `Binding`. The caller holds the current slot's lock."""
        raise NotImplementedError

    def forget_removed(self) -> None:
        """See `RemovableBinding`."""
        if self.is_removed():
            self.detach()

    def is_removed(self) -> bool:
        return self._columns[self._start] < 0

    def detach(self) -> None:
        """Record to nothing from now on. The caller holds the current slot's lock."""
        self._columns, self._start = _REMOVED, 0
        texts.forget(self.row)


def _use_again(columns: Columns, first: int, width: int) -> None:
    """Have a removed row count from 0. The start time is stored last: with it, scrapes show the values."""
    for index in range(first, first + width):
        columns[index] = 0.0
    columns[first - 1] = time.time()
