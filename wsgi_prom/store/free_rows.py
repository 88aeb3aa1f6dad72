"""
Removed rows of a slot that its owner uses again, for other label sets. So an application that makes and removes label sets
for ever (one for each tenant or job) has files as long as the label sets that it has at a time ask for.

A removed row stays where it is, and another label set of as many columns takes its place: its line is written over. The
other way, a fresh slot for the rows that are left, would move all of them while other threads record, leave a mapping
behind that lasts as long as the process, and need one step for three files.

1. The owner looks for removed rows once it has made as many rows as it had left at the last look, so a file holds at most
   about three times as many rows as are in use. A look takes 1 us a row.
2. A row is free only when no object of this process records into it: first the removed rows are listed, then all objects
   let go of theirs.
3. The order is: the row is removed; its line is written over; `reused` is counted; no removal is in progress (removing.py);
   its values are 0; its start time is stored. A process that is killed in between leaves a removed row with the old labels
   or the new ones.
4. A scrape takes a row only if its start time was the same before the keys were read and after the values were: then the
   row had those labels all the time. A start time comes only once to a place.
5. The line has to fit, and to lie within one page of the file: such a write is not cut in two by a SIGKILL.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# Rows that are made before the first look.
FEW: Final = 256


class Place(NamedTuple):
    """A row's first column, and the *offset* and *length* in bytes of its line."""

    start: int
    offset: int
    length: int

    def fits_a_page(self) -> bool:
        return self.offset // mmap.PAGESIZE == (self.offset + self.length - 1) // mmap.PAGESIZE


class FreeRows:
    """The places that are free. Not for two threads at once."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[int, Place]] = {}
        # By stride and length of the line: the first columns, some of which may not be free any more.
        self._starts: dict[int, dict[int, list[int]]] = {}

    def fill(self, places: Iterable[tuple[int, Place]]) -> None:
        """Keep *places*, each with its row's stride, and no others."""
        self._places, self._starts = {}, {}
        for stride, place in places:
            self._places[place.start] = stride, place
            self._starts.setdefault(stride, {}).setdefault(place.length, []).append(place.start)

    def forget(self, start: int) -> None:
        """Forget the place at the column *start*, whose row is in use."""
        self._places.pop(start, None)

    def take(self, stride: int, length: int) -> Place | None:
        """Return a place for a row of *stride* columns with a line of *length* bytes, which is then no longer free."""
        starts = self._starts.get(stride, {})
        for longer in sorted(found for found in starts if found >= length):
            while starts[longer]:
                found = self._places.pop(starts[longer].pop(), None)
                if found is not None:
                    return found[1]
            del starts[longer]
        return None
