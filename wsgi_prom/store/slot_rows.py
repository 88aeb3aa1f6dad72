"""Where the rows of a slot are, and which of them are free for other label sets (free_rows.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom.store import file_format
from wsgi_prom.store.free_rows import FEW, FreeRows, Place
from wsgi_prom.store.removal import fit
from wsgi_prom.store.schemas import PER_PROCESS_MODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.store.removal import Removal
    from wsgi_prom.store.schemas import Schema

    Key = tuple[int, tuple[str, ...]]


class SlotRows:
    """The rows of the key file's *lines*, and those that are added. Not for two threads at once."""

    def __init__(self, lines: bytes) -> None:
        # By schema its ordinal in the file, and by the latter how many columns its rows have.
        self._schemas: dict[Schema, int] = {}
        self._strides: list[int] = []
        # By ordinal and label values: the column behind the start time.
        self._rows: dict[Key, int] = {}
        self._free = FreeRows()
        # Of the rows that `sweep` has found to be removed.
        self._keys: dict[int, Key] = {}
        # The first columns of rows that somebody records into who does not let go of removed ones.
        self._lasting: set[int] = set()
        # Rows that were made since the last look, and how many are enough for another one; what that has found in `removed`.
        self._made, self._enough = 0, FEW
        self._swept = 0
        self.end = file_format.FIRST_COLUMN
        # Of rows with a gauge that is each process's own: the column of the start time, and the number of columns.
        self.per_process: list[tuple[int, int]] = []
        # Rows that the file has twice, since a removal was in progress when the first one was to be used again.
        self._twice: list[tuple[Key, int]] = []
        self._load(lines)

    def _load(self, lines: bytes) -> None:
        schemas: list[Schema] = []
        rows = file_format.parse_lines(lines, schemas)
        # By identity, which takes half of the time of a look-up by the schema.
        numbers = {id(schema): self._schemas.setdefault(schema, n) for n, schema in enumerate(schemas)}
        self._strides = [schema.stride for schema in schemas]
        modes = PER_PROCESS_MODES
        per_process = {id(schema) for schema in schemas if any(m.mode in modes for m in schema.metrics)}
        known, end = self._rows, self.end
        for schema, labelvalues in rows:
            number, stride = id(schema), schema.stride
            key = numbers[number], labelvalues
            if known.setdefault(key, end + 1) != end + 1:
                self._twice.append((key, end + 1))
            if number in per_process:
                self.per_process.append((end, stride))
            end += stride
        self.end = end

    def choose(self, columns: memoryview[float]) -> None:
        """Of rows that the file has twice, use those that are not removed. *columns* are all of the slot."""
        for key, first in self._twice:
            if columns[self._rows[key] - 1] < 0:
                self._rows[key] = first
        self._twice = []

    def find(self, schema: Schema, labelvalues: tuple[str, ...]) -> int | None:
        number = self._schemas.get(schema)
        return None if number is None else self._rows.get((number, labelvalues))

    def covered(self, removal: Removal) -> Iterator[int]:
        """Yield the first column of each row that *removal* covers."""
        for schema, number in list(self._schemas.items()):
            wanted = removal.labelvalues(schema)
            if wanted is None:
                continue
            if None in wanted:
                rows = list(self._rows.items())
                yield from [first for (n, values), first in rows if n == number and fit(wanted, values)]
            elif (number, wanted) in self._rows:
                yield self._rows[number, wanted]  # type: ignore[index]

    def lines(self, schema: Schema, labelvalues: tuple[str, ...]) -> bytes:
        """Return what a row adds to the end of the key file."""
        number = self._schemas.get(schema)
        if number is None:
            return file_format.schema_line(schema) + file_format.row_line(len(self._strides), labelvalues)
        return file_format.row_line(number, labelvalues)

    def append(self, schema: Schema, labelvalues: tuple[str, ...]) -> int:
        """Add a row at the end, and return its first column."""
        if schema not in self._schemas:
            self._schemas[schema] = len(self._strides)
            self._strides.append(schema.stride)
        start, self.end = self.end, self.end + schema.stride
        return self.put(schema, labelvalues, start)

    def put(self, schema: Schema, labelvalues: tuple[str, ...], start: int) -> int:
        """Add a row at the column *start*, and return its first column."""
        self._made += 1
        first = self._rows[self._schemas[schema], labelvalues] = start + 1
        return first

    def take(self, schema: Schema, length: int) -> Place | None:
        """
        Return a free place for a row whose line has *length* bytes. It is no longer free, and its former row is none any more.
        """
        place = self._free.take(schema.stride, length) if schema in self._schemas else None
        if place is not None:
            key = self._keys.pop(place.start, None)
            if key is not None and self._rows.get(key) == place.start + 1:
                del self._rows[key]
        return place

    def keep(self, first: int) -> None:
        """Never give the row at *first* to another label set."""
        if first not in self._lasting:
            self._lasting.add(first)
            self._free.forget(first - 1)

    def used(self, first: int) -> None:
        """Take it that the row at *first* is used again, for the label set that it had."""
        self._free.forget(first - 1)

    def forget(self, schema: Schema, labelvalues: tuple[str, ...]) -> None:
        """Forget the row of these label values; `sweep` finds its columns later."""
        self._rows.pop((self._schemas[schema], labelvalues), None)

    def hurry(self) -> None:
        """Let `need_sweep` be true as soon as a row was removed."""
        self._enough = 0

    def need_sweep(self, removed: int) -> bool:
        """Return whether to look for removed rows; *removed* is the header's word."""
        return self._made >= self._enough and removed not in {0, self._swept}

    def sweep(
        self, keys: bytes, columns: memoryview[float], removed: int, let_go: Callable[[], None]
    ) -> None:
        """
        Find the removed rows of the file *keys*. Their places are free once *let_go* has returned: nobody records into them.
        """
        lines = list(file_format.lines_of_rows(keys, self._strides))
        dead = {
            column: (stride, Place(column, offset, length))
            for stride, column, offset, length in lines
            if columns[column] < 0
        }
        let_go()
        self._keys = {first - 1: key for key, first in list(self._rows.items()) if first - 1 in dead}
        self._free.fill(
            found
            for column, found in dead.items()
            if column + 1 not in self._lasting and found[1].fits_a_page()
        )
        self._made, self._enough, self._swept = 0, max(FEW, len(lines) - len(dead)), removed
