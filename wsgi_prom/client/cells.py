"""
Cells: what the client library's metrics record into, each a column of the process's slot, or two.
"""

# Rule 1: look at `alive` before taking the lock: in a forked child the lock may be held for ever by a thread that is gone.
# Rule 2: a cell counts what its own process recorded; the column may hold more, from earlier holders of the slot, and a
#         `set` must not erase that where the client library would still count it.
# Rule 3: where a record is nothing but this, the lock is not taken by `with`, which costs twice as much; it is taken
#         within a `try` whose `finally` begins with its release, whatever a signal's handler raises in between.
# Rule 4: a signal handler or a finalizer may record in the middle of a record or a move. Between the reading of a
#         figure and its storing there is nothing at which CPython looks for one, or what was stored is looked at again.

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.store import turns
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from wsgi_prom.store.slots import Columns

_alive: Final = current_slot.alive


class Cell:
    """
    A value of the client library's kind whose contributions add up: counters, sums, and most gauges.

    Thread and fork safe; increments from a signal handler or a finalizer are counted too, since no such code runs
    between the reading and the storing of one `+=` on a view (CPython looks for it at calls and jumps).
    """

    __slots__ = ("_base", "_columns", "_index", "_row")

    _multiprocess = True

    def __init__(self) -> None:
        self._row: object = None
        self._columns: Columns = array("d", (0.0, 0.0))
        self._index = 0
        self._base = 0.0

    def inc(self, amount: float) -> None:
        if not _alive[0]:
            current_slot.renew()
        kind = type(amount)
        if not current_slot.guarded and (kind is float or kind is int):
            self._columns[self._index] += amount
            return
        # Of another type, which adds itself: in Python perhaps.
        lock = current_slot.lock
        try:
            turns.take(lock)
            self._columns[self._index] += amount
        finally:
            try:  # noqa: SIM105 - nothing may come between `finally` and the release
                lock.release()
            except RuntimeError:
                pass

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002 - the library's signature
        if not _alive[0]:
            current_slot.renew()
        with current_slot.lock:
            self._columns[self._index] = self._base + value

    def get(self) -> float:
        if not _alive[1]:
            current_slot.part_from_parent()
        with current_slot.lock:
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
        # In memory nothing is an earlier holder's: the first of two takes all along.
        self._base = 0.0 if type(columns) is array else columns[index]
        columns[index] += own


class Live(Cell):
    """A gauge that adds up over living processes: earlier holders of the slot have no part in it."""

    __slots__ = ()

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        own = self._columns[self._index] - self._base if keep else 0.0
        if keep:
            self._columns[self._index] = self._base
        self._columns, self._index, self._base = columns, index, 0.0
        columns[index] += own


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
            current_slot.renew()
        with current_slot.lock:
            self._own += amount
            self._store()

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002
        if not _alive[0]:
            current_slot.renew()
        with current_slot.lock:
            self._own = value
            self._store()

    def get(self) -> float:
        if not _alive[1]:
            current_slot.part_from_parent()
        return self._own

    def forget(self) -> None:
        self._base = self._nothing

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        base = columns[index] if columns[index + 1] else self._nothing
        self._own = self._own if keep else 0.0
        self._columns, self._index, self._base = columns, index, base
        columns[index + 1] = 1.0
        self._store()

    def _store(self) -> None:
        own = None
        while own is not self._own:  # a handler has stored a newer one, which this has overwritten
            own = self._own
            self._columns[self._index] = self._choose(self._base, own)


class Latest(Cell):
    """A gauge of a most recent mode: the value and, in the next column, when it was set."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        super().__init__()
        self._own = 0.0

    def set(self, value: float, timestamp: float | None = None) -> None:
        if not _alive[0]:
            current_slot.renew()
        timestamp = timestamp or 0.0
        with current_slot.lock:
            self._own = value
            self._columns[self._index] = value
            self._columns[self._index + 1] = timestamp

    def get(self) -> float:
        if not _alive[1]:
            current_slot.part_from_parent()
        return self._own

    def move(self, columns: Columns, index: int, *, keep: bool) -> None:
        value, timestamp = self._columns[self._index], self._columns[self._index + 1]
        self._own = self._own if keep else 0.0
        self._columns, self._index = columns, index
        if keep and timestamp > columns[index + 1]:
            columns[index], columns[index + 1] = value, timestamp
