"""
Add up the columns of all sources, at each collection anew.

1. Every row that a collector has met has a number. Numbers are never given again, and the sums are in their order.
2. A sum is made of all its terms in the order of the sources, never of an earlier sum and a difference: figures that
   nobody changed do not drift.
3. Only where each layout has which rows is kept from one collection to the next: a `_RowIndex`, made once for all slots that
   share the layout.
"""

from __future__ import annotations

import math
import weakref
from array import array
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wsgi_prom.merge.readers import Layout, Reading
    from wsgi_prom.store.schemas import Row, Schema
    from wsgi_prom.store.text_format import Text

# Rows that are added up at a time: with 512 slots, a copy of all columns was a third of the collector's memory.
_AT_ONCE: Final = 128


class Sums:
    """
    All *rows* by number, and after `update` the sums of all columns (*totals*).

    *firsts* are the first columns of the rows: what stands there are start times, whose sum means nothing. *removed* are the
    numbers of the rows that every source that has them calls removed.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.firsts = [0]
        self.totals: list[float] = []
        self._indexed: list[tuple[Reading, _RowIndex]] = []
        # The texts of some columns, by their index among the totals.
        self.texts: dict[int, Text] = {}
        self._present: list[tuple[Reading, _RowIndex]] = []
        self._start_times: list[float] | None = None
        self.removed: frozenset[int] = frozenset()
        self._removals: list[tuple[Layout, frozenset[int]]] = []
        self._indexes: weakref.WeakKeyDictionary[Layout, _RowIndex] = weakref.WeakKeyDictionary()
        # By the schema's identity: its hash takes 1 to 2 us, everything else about a row 0.25. *rows* keep it alive.
        self._numbers: dict[int, dict[tuple[str, ...], int]] = {}

    def update(self, readings: Iterable[Reading], present: Iterable[Reading]) -> None:
        """
        Add up *readings*, whose layouts have all the rows.

        Of those, *present* were read in this collection; the others are of slots that are gone.
        """
        indexed = [(reading, self._index_of(reading.layout)) for reading in readings]
        self._indexed, self._start_times = indexed, None
        self._present = [(reading, self._indexes[reading.layout]) for reading in present]
        removals = [(reading.layout, reading.removed) for reading, _ in indexed]
        if removals != self._removals:
            self._removals, self.removed = removals, _removed_by_all(indexed)
        self.totals = []
        for first in range(0, len(self.rows), _AT_ONCE):
            last = min(first + _AT_ONCE, len(self.rows))
            pieces = [self._piece(reading, index, first, last) for reading, index in indexed]
            # Iterating over arrays makes each float and forgets it at once: 10 ms for 32 slots of 17,000 columns, where
            # lists of floats take 27.
            columns = [array("d", piece) for piece in pieces if piece]
            self.totals += map(sum, zip(*columns, strict=True)) if len(columns) > 1 else columns[0]

    def number_rows(self, layouts: Iterable[Layout]) -> bool:
        """Give numbers to the rows of *layouts*; return whether every row that has a number is in one of them."""
        numbers: set[int] = set()
        for layout in layouts:
            numbers.update(self._index_of(layout).numbers)
        return len(numbers) == len(self.rows)

    def numbers(self, layout: Layout) -> Sequence[int]:
        """Return the numbers of the rows of *layout*."""
        return self._index_of(layout).numbers

    def shown(self, number: int) -> Iterator[tuple[str, bool, array[float]]]:
        """Yield what each process that is present has in row *number*: its `pid` label, whether it is alive, the values."""
        for reading, index in self._present:
            if index.holds(number):
                piece = self._piece(reading, index, number, number + 1)
                yield reading.name, reading.live, array("d", piece[8:])

    def start_times(self) -> list[float]:
        """Return since when each row counts: the least start time that a source has, 0 if none has one."""
        if self._start_times is None:
            least = [math.inf] * len(self.rows)
            for reading, index in self._indexed:
                columns = array("d", reading.data)
                for number in index.numbers:
                    first = self.firsts[number] if index.offsets is None else index.offsets[number] // 8
                    if 0 < columns[first] < least[number]:
                        least[number] = columns[first]
            self._start_times = [0.0 if time == math.inf else time for time in least]
        return self._start_times

    def _index_of(self, layout: Layout) -> _RowIndex:
        """Return where *layout* has its rows, which get numbers if they are new."""
        index = self._indexes.get(layout)
        if index is None:
            offsets: dict[int, int] = {}
            offset = 0
            for schema, labelvalues in layout.rows:
                number = self._numbers.setdefault(id(schema), {}).get(labelvalues)
                # A file that has a row twice is not of our making; the second is a row of its own.
                if number is None or number in offsets:
                    number = self._add(schema, labelvalues)
                offsets[number] = offset
                offset += 8 * schema.stride
            index = self._indexes[layout] = _RowIndex(offsets)
        return index

    def _add(self, schema: Schema, labelvalues: tuple[str, ...]) -> int:
        number = len(self.rows)
        self.rows.append((schema, labelvalues))
        self.firsts.append(self.firsts[-1] + schema.stride)
        self._numbers[id(schema)][labelvalues] = number
        return number

    def _piece(self, reading: Reading, index: _RowIndex, first: int, last: int) -> bytes:
        """Return the columns of the rows from *first* to *last* (exclusive): 0 for rows that it has not, b"" if it has none."""
        firsts, data = self.firsts, reading.data
        size = 8 * (firsts[last] - firsts[first])
        if index.offsets is None:
            piece = data[8 * firsts[first] : 8 * firsts[last]]
        elif max(index.offsets[first:last], default=-1) < 0:
            return b""
        else:
            piece = b"".join([
                data[offset : offset + 8 * (firsts[number + 1] - firsts[number])]
                if offset >= 0
                else bytes(8 * (firsts[number + 1] - firsts[number]))
                for number, offset in enumerate(index.offsets[first:last], first)
            ])  # fmt: skip
        return piece.ljust(size, b"\0") if piece else piece


def _removed_by_all(indexed: list[tuple[Reading, _RowIndex]]) -> frozenset[int]:
    removals = Counter([index.numbers[n] for reading, index in indexed for n in reading.removed])
    return frozenset([
        number
        for number, times in removals.items()
        if times == sum([index.holds(number) for _, index in indexed])
    ])  # fmt: skip


class _RowIndex:
    """
    The *numbers* of a layout's rows, and by number their *offsets* in bytes: -1 for others.

    *offsets* are None where the rows stand in the order of their numbers, as in slots that met their label sets in one order.
    """

    def __init__(self, offsets: dict[int, int]) -> None:
        self.numbers = array("I", offsets)
        self.offsets: array[int] | None = None
        if self.numbers != array("I", range(len(offsets))):
            self.offsets = array("q", [offsets.get(n, -1) for n in range(max(offsets) + 1)])

    def holds(self, number: int) -> bool:
        if self.offsets is None:
            return number < len(self.numbers)
        return number < len(self.offsets) and self.offsets[number] >= 0
