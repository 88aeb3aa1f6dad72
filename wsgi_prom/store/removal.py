"""
Removal of label sets: from this process's slot, and from those of all others that share its directory.

1. A row is removed if its start time is negative: minus the time of the removal. Scrapes leave such a row out. They look at
   the sign alone, which is one byte, and so no half of a number.
2. Rows are marked first, then the header's word `removed` is given a new number: its owner looks at that word before it
   uses a label set again, and a scrape looks at it after it has read the values.
3. Only the owner uses the row again: it stores 0 to all values, and then a start time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.store import directory, directory_files, file_format

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from wsgi_prom.store.schemas import Row, Schema

# The byte of a double that has its sign.
_SIGN: Final = 7 if sys.byteorder == "little" else 0


@dataclass(frozen=True)
class Removal:
    """
    The rows of the metric *name* of the *type* that have *labels*, and if it is *exact* no others.
    """

    type: str
    name: str
    labels: Mapping[str, str]
    exact: bool = False

    def covers(self, schema: Schema, labelvalues: tuple[str, ...]) -> bool:
        """Return whether the row is one of them. Rows that several metrics share are no application's own."""
        metric = schema.metrics[0]
        if metric.name != self.name or metric.type != self.type or len(schema.metrics) > 1:
            return False
        if self.exact and len(self.labels) != len(labelvalues):
            return False
        return dict(zip(schema.labelnames, labelvalues, strict=True)).items() >= self.labels.items()


class Watch:
    """What a process compares before it uses a label set: the *word* of its slot, and the number *seen* there last."""

    __slots__ = ("seen", "word")

    def __init__(self) -> None:
        self.word: memoryview[int] = memoryview(bytes(8)).cast("Q")
        self.seen = 0

    def look_at(self, word: memoryview[int]) -> None:
        """Watch *word* from now on. What was removed before is no news: a row that is bound is fresh."""
        self.seen = word[0]
        self.word = word

    def alert(self) -> None:
        """Have the process look for removed rows, whatever the word says."""
        self.seen = -1


def mark() -> float:
    """Return the start time of a row that is removed now."""
    return -time.time()


def new_number() -> int:
    """Return a number unlike any other, and never 0."""
    return int.from_bytes(os.urandom(8)) | 1


def remove_from_others(path: Path, own: int | None, removal: Removal) -> None:
    """
    Mark the rows that *removal* covers in all slots of the directory *path* but number *own*.

    Reads the keys of all slots: 1 ms for 1,000 rows. Slots that cannot be read are passed over. Raises OSError,
    DirectoryError for a directory that cannot be read.
    """
    name = json.dumps(removal.name).encode("ascii")
    with directory_files.opened(path) as folder:
        for number in directory.slot_numbers(path):
            if number != own:
                with suppress(OSError, FormatError, DirectoryError):
                    _remove_from(folder, number, name, removal)


def _remove_from(folder: int, number: int, name: bytes, removal: Removal) -> None:
    fd = directory_files.open_file(directory.slot_file(number, "values"), folder, os.O_RDWR, create=False)
    try:
        nonce, committed = file_format.unpack_header(os.pread(fd, file_format.HEADER.size, 0))
        lines = _lines(folder, number, nonce, committed)
        if name not in lines:
            return
        size, removed = os.fstat(fd).st_size, False
        for start, row in _rows(lines):
            place = 8 * start
            # A file that was cut short is not made longer.
            if removal.covers(*row) and place < size and os.pread(fd, 1, place + _SIGN) < b"\x80":
                os.pwrite(fd, array("d", (mark(),)).tobytes(), place)
                removed = True
        if removed:
            os.pwrite(fd, new_number().to_bytes(8, sys.byteorder), 8 * file_format.REMOVED)
    finally:
        os.close(fd)


def _lines(folder: int, number: int, nonce: int, committed: int) -> bytes:
    """Return the lines of a key file that are committed."""
    fd = directory_files.open_file(directory.slot_file(number, "keys"), folder, os.O_RDONLY, create=False)
    try:
        keys = os.pread(fd, min(committed, file_format.LARGEST_KEYS), 0)
    finally:
        os.close(fd)
    file_format.check_keys(keys, nonce, committed)
    return keys[len(file_format.keys_header(nonce)) :]


def _rows(lines: bytes) -> Iterator[tuple[int, Row]]:
    """Yield each row of *lines*, and the column of its start time."""
    start = file_format.FIRST_COLUMN
    for row in file_format.parse_lines(lines, []):
        yield start, row
        start += row[0].stride
