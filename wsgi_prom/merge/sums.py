"""
The sums of all columns over the sources that have them, kept from scrape to scrape.

What each source held at the last scrape is kept as bytes. Only rows that differ in some source are added up again.
"""

# Rule 1: a sum is made of all its terms in the order of the sources, never by adding or taking off a difference: figures
#         that nobody changed do not drift.

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from wsgi_prom.merge.layouts import Index

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from wsgi_prom.merge.readers import Reading


# Columns that are added up at a time: with 512 slots, a copy of all of them was a third of the collector's memory.
_AT_ONCE: Final = 2048


class Sums:
    """
    The sums of the columns of all rows: *totals*, in the order of *index*.

    *rows* are the last readings, of slots that are gone too. *met* are the rows that some row has, in the order of their
    meeting, and *changed* those whose sums the last update changed. *peopled* says whether the last update met other
    processes, or others alive, than the one before; *orphaned* that a row of *met* is no row's any more.
    """

    def __init__(self) -> None:
        self.index = Index()
        self.totals = array("d")
        self.rows: dict[Hashable, Reading] = {}
        self.met: list[int] = []
        self.changed: list[int] = []
        self.peopled = False
        self.orphaned = False
        self._present: list[Reading] = []
        self._is_met = bytearray()

    def update(self, readings: list[Reading], gone: Iterable[Reading] = ()) -> None:
        """Take *readings* in the place of the last ones, and *gone* as slots that were there once."""
        rows, index = self.rows, self.index
        for row in (*readings, *gone):
            row.layout.move(index)
        found = {row.key: row for row in readings}
        self.totals.frombytes(bytes(8 * (index.starts[-1] - len(self.totals))))
        self._is_met.extend(bytes(len(index.rows) - len(self._is_met)))
        flags = bytearray(len(index.rows))
        lost = [key for key, row in rows.items() if row.slot is None and key not in found]
        for key in lost:
            rows.pop(key).layout.flag(flags)
        for row in (*readings, *gone):
            last = rows.get(row.key)
            rows[row.key] = row
            if last is None or last.layout is not row.layout:
                lost += self._relaid(last, row, flags)
            elif 0 in flags:  # if not, all are added up again anyway
                row.layout.compare(last.data, row.data, flags)
        if lost:
            held = bytearray(len(flags))
            for row in rows.values():
                row.layout.flag(held)
            self.orphaned = any(not held[number] for number in self.met)
        people = [(row.key, row.pid, row.live) for row in readings]
        self.peopled = people != [(row.key, row.pid, row.live) for row in self._present]
        self._present = readings
        self.changed = list(self._summed(flags))

    def readings(self, number: int) -> list[tuple[str, bool, array[float]]]:
        """Return what each process that is there shows for a row: its `pid`, whether it is alive, and the columns."""
        return [
            (row.pid, row.live, array("d", row.layout.piece(row.data, number, number + 1)))
            for row in self._present if row.layout.holds(number)
        ]  # fmt: skip

    def _relaid(self, last: Reading | None, row: Reading, flags: bytearray) -> list[Hashable]:
        numbers = row.layout.numbers
        known = len(last.layout.numbers) if last is not None else 0
        extended = last is None or numbers[:known] == last.layout.numbers
        if last is not None and extended:
            row.layout.compare(last.data, row.data, flags)
            row.layout.flag(flags, known)
        else:
            row.layout.flag(flags)
            if last is not None:
                last.layout.flag(flags)
        for number in numbers[known if extended else 0 :]:
            if not self._is_met[number]:
                self._is_met[number] = 1
                self.met.append(number)
        return [] if extended else [row.key]

    def _summed(self, flags: bytearray) -> Iterator[int]:
        """Add up what is flagged, and yield the rows whose sums are others than before."""
        starts, totals = self.index.starts, self.totals
        last = 0
        while (first := flags.find(1, last)) >= 0:
            last = flags.find(0, first)
            last = len(flags) if last < 0 else last
            last = min(last, max(first + 1, bisect_right(starts, starts[first] + _AT_ONCE) - 1))
            start, end = starts[first], starts[last]
            pieces = [row.layout.piece(row.data, first, last) for row in self.rows.values()]
            columns = [array("d", piece) for piece in pieces if piece]
            before = totals[start:end].tobytes()
            if len(columns) == 1:
                totals[start:end] = columns[0]
            else:
                # Iterating over arrays makes each float and forgets it at once: 10 ms for 32 slots of 17,000 columns, where
                # lists of floats take 27.
                totals[start:end] = array(
                    "d", map(sum, zip(*columns, strict=True)) if columns else bytes(len(before))
                )
            after = totals[start:end].tobytes()
            at = 0
            for number in range(first, last):
                end = at + self.index.sizes[number]
                # The same sum of other gauges is another page.
                if before[at:end] != after[at:end] or self.index.gauges[number]:
                    yield number
                at = end
