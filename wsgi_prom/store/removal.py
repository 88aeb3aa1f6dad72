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
import re
import sys
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.store import directory, directory_files, file_format
from wsgi_prom.store.removing import removing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from wsgi_prom.store.schemas import Schema

# How often keys are read again whose owner gives rows to other label sets meanwhile, before a removal keeps it from that.
_TRIES: Final = 3
# No number of a removal.
_ALERTED: Final = -1
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

    def labelvalues(self, schema: Schema) -> tuple[str | None, ...] | None:
        """
        Return what label values its rows of *schema* have, None for any value; None if it covers no rows of that schema.

        Rows that several metrics share are no application's own.
        """
        metric, names = schema.metrics[0], schema.labelnames
        if metric.name != self.name or metric.type != self.type or len(schema.metrics) > 1:
            return None
        if not self.labels.keys() <= set(names) or (self.exact and len(self.labels) != len(names)):
            return None
        return tuple(map(self.labels.get, names))


def fit(wanted: tuple[str | None, ...], labelvalues: tuple[str, ...]) -> bool:
    """Return whether *labelvalues* are those of `Removal.labelvalues`."""
    return all(want is None or want == value for want, value in zip(wanted, labelvalues, strict=True))


class Watch:
    """What a process compares before it uses a label set: the *word* of its slot, and the number *seen* there last."""

    __slots__ = ("seen", "word")

    def __init__(self) -> None:
        self.word: memoryview[int] = memoryview(bytes(8)).cast("Q")
        self.seen = 0

    def look_at(self, word: memoryview[int]) -> None:
        """Watch *word* from now on. What was removed before is no news: a row that is bound is fresh."""
        if self.seen != _ALERTED:
            self.seen = word[0]
        self.word = word

    def alert(self) -> None:
        """Make the process look for removed rows, whatever the word says."""
        self.seen = _ALERTED


def removed_now() -> float:
    """Return the start time of a row that is removed now."""
    return -time.time()


def new_number() -> int:
    """Return a number unlike any other, and never 0."""
    return int.from_bytes(os.urandom(8)) | 1


def remove_from_others(path: Path, own: int | None, removal: Removal) -> None:
    """
    Remove the rows that *removal* covers from all slots of the directory *path* but number *own*.

    Reads the keys of all slots, and parses those that have all the words of *removal*: 3 ms for 1,000 rows. Slots that cannot
    be read are passed over. Raises OSError, DirectoryError for a directory that cannot be read.
    """
    words = [json.dumps(word).encode("ascii") for word in (removal.name, *removal.labels.values())]
    with directory_files.opened(path) as folder:
        for number in directory.slot_numbers(path):
            if number != own:
                with suppress(OSError, FormatError, DirectoryError):
                    _remove_from(folder, number, words, removal)


def _remove_from(folder: int, number: int, words: list[bytes], removal: Removal) -> None:
    fd = directory_files.open_file(directory.slot_file(number, "values"), folder, os.O_RDWR, create=False)
    try:
        for _ in range(_TRIES):
            reused = os.pread(fd, 8, 8 * file_format.REUSED)
            with suppress(FormatError):  # its owner writes over a line meanwhile, or it is damaged
                starts = _starts(fd, folder, number, words, removal)
                if not starts:
                    return
                with removing(fd):
                    # Else a row may be another label set's by now.
                    if os.pread(fd, 8, 8 * file_format.REUSED) == reused:
                        _mark(fd, starts)
                        return
        with removing(fd):
            _mark(fd, _starts(fd, folder, number, words, removal))
    finally:
        os.close(fd)


def _mark(fd: int, starts: list[int]) -> None:
    """Mark the rows whose start times are in the columns *starts* of the value file *fd*. The caller holds its lock."""
    size, removed = os.fstat(fd).st_size, False
    for start in starts:
        offset = 8 * start
        # A file that was cut short is not made longer.
        if offset < size and os.pread(fd, 1, offset + _SIGN) < b"\x80":
            os.pwrite(fd, array("d", (removed_now(),)).tobytes(), offset)
            removed = True
    if removed:
        os.pwrite(fd, new_number().to_bytes(8, sys.byteorder), 8 * file_format.REMOVED)


def _starts(values: int, folder: int, number: int, words: list[bytes], removal: Removal) -> list[int]:
    """Return the columns of the start times of the rows that *removal* covers. The value file is open as *values*."""
    nonce, committed = file_format.unpack_header(os.pread(values, file_format.HEADER.size, 0))
    fd = directory_files.open_file(directory.slot_file(number, "keys"), folder, os.O_RDONLY, create=False)
    try:
        keys = os.pread(fd, min(committed, file_format.LARGEST_KEYS), 0)
    finally:
        os.close(fd)
    file_format.check_keys(keys, nonce, committed)
    return list(_covered(keys, words, removal)) if all(word in keys for word in words) else []


def _covered(keys: bytes, words: list[bytes], removal: Removal) -> Iterator[int]:
    """Yield the column of the start time of each row of *keys* that *removal* covers. Raises FormatError."""
    schemas: list[Schema] = []
    file_format.parse_lines(b"".join(re.findall(rb"^{.*\n", keys, re.MULTILINE)), schemas)
    wanted = {id(schema): removal.labelvalues(schema) for schema in schemas}
    # Only lines that have the label values are parsed, and the rows before them are counted: a tenth of the time.
    longest = re.escape(max(words[1:], key=len, default=b""))
    columns: list[int] = []
    lines: list[bytes] = []
    column, before = file_format.FIRST_COLUMN, 0
    for match in re.finditer(rb"^\[.*" + longest + rb".*\n", keys, re.MULTILINE):
        if all(word in match[0] for word in words[1:]):
            end = match.start() - 1
            column += file_format.columns_between(keys, before, end, schemas)
            before = end
            columns.append(column)
            lines.append(match[0])
    rows = file_format.parse_lines(b"".join(lines), schemas)
    for column, (schema, labelvalues) in zip(columns, rows, strict=True):
        values = wanted[id(schema)]
        if values is not None and fit(values, labelvalues):
            yield column
