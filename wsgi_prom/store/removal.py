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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.store import directory, directory_files, file_format

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from wsgi_prom.store.schemas import Schema

# The byte of a double that has its sign.
_SIGN: Final = 7 if sys.byteorder == "little" else 0
# How often files are read that do not fit each other: their owner may replace them in this moment.
_TRIES: Final = 3


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
        self.seen = word[0]
        self.word = word

    def alert(self) -> None:
        """Make the process look for removed rows, whatever the word says."""
        self.seen = -1


def removed_now() -> float:
    """Return the start time of a row that is removed now."""
    return -time.time()


def new_number() -> int:
    """Return a number unlike any other, and never 0."""
    return int.from_bytes(os.urandom(8)) | 1


def remove_from_others(path: Path, own: int | None, removal: Removal) -> list[str]:
    """
    Remove the rows that *removal* covers from all slots of the directory *path* but number *own*. Return the problems of slots
    that it did not reach.

    Reads the keys of all slots, and parses those that have all the words of *removal*: 3 ms for 1,000 rows. Raises OSError,
    DirectoryError for a directory that cannot be read.
    """
    words = [json.dumps(word).encode("ascii") for word in (removal.name, *removal.labels.values())]
    problems = []
    with directory_files.opened(path) as folder:
        for number in directory.slot_numbers(path):
            if number != own:
                try:
                    _remove_from_slot(folder, number, words, removal)
                except (OSError, FormatError, DirectoryError) as error:
                    problems.append(f"slot {number}: {error}")
    return problems


def _remove_from_slot(folder: int, number: int, words: list[bytes], removal: Removal) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            _remove_from(folder, number, words, removal)
        except FileNotFoundError:
            return  # removed in this moment
        except FormatError:
            if not tries_left:
                raise
        else:
            return


def _remove_from(folder: int, number: int, words: list[bytes], removal: Removal) -> None:
    fd = directory_files.open_file(directory.slot_file(number, "values"), folder, os.O_RDWR, create=False)
    try:
        header = os.pread(fd, file_format.HEADER.size, 0)
        if not any(header):
            return  # it has no rows yet
        nonce, committed = file_format.unpack_header(header)
        lines = _lines(folder, number, nonce, committed)
        if not all(word in lines for word in words):
            return
        size, removed = os.fstat(fd).st_size, False
        for start in _starts(lines, removal):
            offset = 8 * start
            # A file that was cut short is not made longer.
            if offset < size and os.pread(fd, 1, offset + _SIGN) < b"\x80":
                os.pwrite(fd, array("d", (removed_now(),)).tobytes(), offset)
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


def _starts(lines: bytes, removal: Removal) -> Iterator[int]:
    """Yield the column of the start time of each row of *lines* that *removal* covers."""
    start = file_format.FIRST_COLUMN
    schemas: list[Schema] = []
    rows = file_format.parse_lines(lines, schemas)
    wanted = {id(schema): removal.labelvalues(schema) for schema in schemas}
    for schema, labelvalues in rows:
        values = wanted[id(schema)]
        if values is not None and fit(values, labelvalues):
            yield start
        start += schema.stride
