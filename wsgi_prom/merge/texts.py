"""
The texts of all slots: exemplars, and what Info metrics say. Of each column, the latest of all processes counts.

1. A text that was read counts for as long as its slot does: a file that is lost, or that cannot be read, takes none away.
2. A record that a process writes meanwhile is read again. Records of a killed process that are half written are left out.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.merge import readers
from wsgi_prom.store import directory, text_format
from wsgi_prom.store.texts import texts as own_texts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.merge.sums import Sums
    from wsgi_prom.store.text_format import Record, Text

_TRIES: Final = 3


class SlotTexts:
    """The texts in the directory *path*, or of this process's memory if it is None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        # By the nonce of the slot, and its columns.
        self._texts: dict[int, dict[int, Text]] = {}

    def read(
        self, names: Collection[str], readings: Iterable[Reading], owners: frozenset[int] | None
    ) -> Iterator[str]:
        """
        Read the files among *names* that belong to *readings*, and yield the names of those that cannot be read.

        *owners* are the uids whose files are read, None for all.
        """
        for reading in readings:
            name = directory.slot_file(reading.name, directory.TEXTS)
            if self._path is None or reading.nonce is None or name not in names:
                continue
            try:
                _read(self._path / name, reading.nonce, owners, self._texts.setdefault(reading.nonce, {}))
            except FileNotFoundError:
                continue
            except (OSError, FormatError, MemoryError):
                yield name

    def latest(self, sums: Sums, readings: Collection[Reading]) -> dict[int, Text]:
        """Return the latest text of each column of *sums*, which are made of *readings*. Texts of others are forgotten."""
        nonces = {reading.nonce for reading in readings}
        self._texts = {nonce: texts for nonce, texts in self._texts.items() if nonce in nonces}
        latest: dict[int, Text] = {}
        for reading in readings:
            for column, text in self._of(reading):
                at = sums.index(reading.layout, column)
                if at is not None and (at not in latest or latest[at].time <= text.time):
                    latest[at] = text
        return latest

    def _of(self, reading: Reading) -> Iterable[tuple[int, Text]]:
        if self._path is not None:
            columns, starts = memoryview(reading.data).cast("d"), reading.layout.starts
            found = self._texts.get(reading.nonce or 0, {}).items()
            rows = [bisect_right(starts, column) - 1 for column, _ in found]
            # A row that was removed and is used again does not show what it had before.
            return [
                (column, text)
                for (column, text), row in zip(found, rows, strict=True)
                if column < starts[-1] and row not in reading.removed and text.time >= columns[starts[row]]
            ]
        return (
            (start + 1 + column, text)
            for start, row in zip(reading.layout.starts, reading.layout.rows, strict=False)
            for column, text in own_texts.of(row).items()
        )


def _read(path: Path, nonce: int, owners: frozenset[int] | None, texts: dict[int, Text]) -> None:
    """Bring *texts*, by column, up to date. Raises FormatError, OSError; what could be read is in them all the same."""
    fd, found = readers.open_plain(path, owners)
    try:
        if found.st_size > text_format.LARGEST_FILE:
            raise FormatError(f"{found.st_size} bytes of texts")
        data = os.pread(fd, found.st_size, 0)
        if not data:  # its process is making it
            return
        text_format.check_header(data, nonce)
        damaged = None
        for record in text_format.records(data):
            text = record.text or _read_again(fd, record)
            if text is None:
                damaged = record.offset
            elif record.column != text_format.FREE:
                former = texts.get(record.column)
                if former is None or former.time <= text.time:
                    texts[record.column] = text
        if damaged is not None:
            raise FormatError(f"{path} has a damaged record at {damaged}")
    finally:
        os.close(fd)


def _read_again(fd: int, record: Record) -> Text | None:
    for _ in range(_TRIES):
        again = text_format.parse(os.pread(fd, record.capacity, record.offset), 0)
        if again.text is not None and again.column == record.column:
            return again.text
    return None
