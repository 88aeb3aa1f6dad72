"""
Which columns of a source belong to which row, and where these go among the columns of all.

A collector numbers the rows that it meets. A layout is the rows of one source in the order of its columns: that
of the numbers, where processes met their label sets in one order, or any other.
"""

from __future__ import annotations

import weakref
from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store import file_format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.store.file_format import Row, Schema

# Columns are compared with those of the last scrape in pieces of whole rows, at least so many columns each. To compare a
# piece takes 0.1 us for each slot, to add up a column 0.025: so the search for what changed costs little where all has
# changed (and ends with the first slot that says so), and where a tenth has, it saves two thirds of a scrape of 32 slots.
_PIECE: Final = 64


class Index:
    """All rows, by number. The columns of one are those from `starts[number]` to `starts[number + 1]`."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.starts = [0]
        self.sizes: list[int] = []  # in bytes
        self.gauges: list[bool] = []
        self.memo = file_format.Memo()
        self._numbers: dict[Schema, tuple[Schema, dict[tuple[str, ...], int]]] = {}

    def numbers(self, rows: Iterable[Row]) -> array[int]:
        """Return the numbers of *rows*; those that are new get the next ones."""
        # By identity within a call: to hash a schema takes 1 to 2 us, all the rest of a row 0.25.
        known: dict[int, tuple[Schema, dict[tuple[str, ...], int]]] = {}
        found = array("I")
        for schema, labelvalues in rows:
            place = known.get(id(schema))
            if place is None:
                place = known[id(schema)] = self._numbers.setdefault(schema, (schema, {}))
            number = place[1].get(labelvalues)
            if number is None:
                number = place[1][labelvalues] = self._add(place[0], labelvalues)
            found.append(number)
        return found

    def _add(self, schema: Schema, labelvalues: tuple[str, ...]) -> int:
        self.rows.append((schema, labelvalues))
        self.starts.append(self.starts[-1] + schema.width)
        self.sizes.append(8 * schema.width)
        self.gauges.append(any(metric.type == "gauge" for metric in schema.metrics))
        return len(self.rows) - 1


class Layout:
    """The rows of a source, as *numbers* of *index*. Slots whose key files are alike share one."""

    __slots__ = (
        "__weakref__",
        "_again",
        "_index",
        "_pieces",
        "_schemas",
        "_successors",
        "_where",
        "numbers",
        "width",
    )

    def __init__(self, index: Index, numbers: array[int], schemas: list[Schema]) -> None:
        self._schemas = schemas
        # Weakly: while label sets are still being met, each scrape sees layouts that no slot has any more at the next.
        self._successors: weakref.WeakValueDictionary[bytes, Layout] = weakref.WeakValueDictionary()
        self._place(index, numbers)

    def _place(self, index: Index, numbers: array[int]) -> None:
        self._index = index
        self.numbers = numbers
        # Where each row of the index is among the bytes, and -1; None where they are in the index's order.
        self._where: array[int] | None = None
        # Columns of a row that is there twice, as only a file of another origin has it.
        self._again: list[tuple[int, int, int]] = []
        self._pieces: tuple[array[int], array[int]] | None = None
        sizes = index.sizes
        self.width = sum([sizes[number] for number in numbers]) // 8
        if numbers != array("I", range(len(numbers))):
            self._where = where = array("q", b"\xff" * (8 * (max(numbers) + 1)))
            at = 0
            for number in numbers:
                if where[number] < 0:
                    where[number] = at
                else:
                    self._again.append((where[number] // 8, at // 8, sizes[number] // 8))
                at += sizes[number]

    def extended(self, lines: bytes, room: int) -> Layout:
        """
        Return the layout of a key file that goes on with *lines*, whose value file has bytes for *room* columns.

        Raises FormatError if that is too few.
        """
        key = blake2b(lines).digest()  # the lines would be half as many bytes as the columns, for each slot
        layout = self._successors.get(key)
        if layout is None:
            schemas = list(self._schemas)
            rows = file_format.parse_lines(lines, schemas, self._index.memo)
            # Before they get a place among the sums: a damaged schema may claim any width.
            _check(self.width + sum([schema.width for schema, _ in rows]), room)
            numbers = self.numbers + self._index.numbers(rows)
            layout = self._successors[key] = Layout(self._index, numbers, schemas)
        _check(layout.width, room)
        return layout

    def of(self, rows: Iterable[Row]) -> Layout:
        """Return the layout of *rows* alone."""
        return Layout(self._index, self._index.numbers(rows), [])

    def move(self, index: Index) -> None:
        """Take the numbers of *index*, which may be another than before."""
        if index is not self._index:
            self._place(index, index.numbers([self._index.rows[number] for number in self.numbers]))

    def folded(self, data: bytes) -> bytes:
        """Return *data* with what is there twice added up."""
        if not self._again:
            return data
        columns = array("d", data)
        for first, again, width in self._again:
            for n in range(width):
                columns[first + n] += columns[again + n]
        return columns.tobytes()

    def holds(self, number: int) -> bool:
        if self._where is None:
            return number < len(self.numbers)
        return number < len(self._where) and self._where[number] >= 0

    def piece(self, data: bytes, first: int, last: int) -> bytes:
        """Return the columns of the rows from *first* to *last* (exclusive): 0 for those that it has not, b"" for none."""
        starts = self._index.starts
        size = 8 * (starts[last] - starts[first])
        if self._where is None:
            found = data[8 * starts[first] : 8 * starts[last]]
        else:
            found = b"".join([
                data[at : at + size] if at >= 0 else bytes(size)
                for at, size in zip(self._where[first:last], self._index.sizes[first:last])  # noqa: B905 - as far as it has
            ])  # fmt: skip
        return found.ljust(size, b"\0") if found else found

    def flag(self, flags: bytearray, first: int = 0, last: int | None = None) -> None:
        """Mark its rows, or only those from *first* to *last* (exclusive) in its own order."""
        if self._where is None:
            last = len(self.numbers) if last is None else last
            flags[first:last] = b"\1" * (last - first)
        else:
            for number in self.numbers[first:last]:
                flags[number] = 1

    def compare(self, before: bytes, after: bytes, flags: bytearray) -> None:
        """Mark the rows of those pieces that *before* and *after* differ in. *before* may be shorter."""
        if before == after:
            return
        if self._pieces is None:
            self._pieces = self._cut()
        rows, edges = self._pieces
        start = first = 0
        for last, end in zip(rows, edges, strict=True):
            if before[start:end] != after[start:end]:
                self.flag(flags, first, last)
            first, start = last, end

    def _cut(self) -> tuple[array[int], array[int]]:
        rows, edges = array("L"), array("L")
        sizes = self._index.sizes
        start = end = 0
        for count, number in enumerate(self.numbers, start=1):
            end += sizes[number]
            if end - start >= 8 * _PIECE or count == len(self.numbers):
                rows.append(count)
                edges.append(end)
                start = end
        return rows, edges


def _check(width: int, room: int) -> None:
    if width > room:
        raise FormatError(f"values for {room} columns, the keys ask for {width}")
