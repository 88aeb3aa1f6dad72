"""
Read the sources of a scrape: the slots of a directory, and this process's memory.

1. A file is read, never mapped: a file that somebody truncates meanwhile is an error and not SIGBUS.
2. The header is read before the keys, and the values last, which is the order in which a process commits them.
3. Anything wrong with a file is a FormatError or an OSError; the collector leaves that file out.
"""

from __future__ import annotations

import os
import weakref
from array import array
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory, directory_files, exit_counts, file_format, locks, schemas
from wsgi_prom.store.claims import Claim
from wsgi_prom.store.directory_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from pathlib import Path

    from wsgi_prom.store.locks import LockFile
    from wsgi_prom.store.memory_slot import MemorySlot
    from wsgi_prom.store.schemas import Row, Schema

# The most that a slot may hold, in bytes of keys and in columns: a million label sets. More is damage, or a sparse file
# that would fill the memory.
_MOST_KEYS: Final = 2**28
_MOST_COLUMNS: Final = 2**24
# How often values are read again while processes remove label sets.
_TRIES: Final = 10

_UNCLAIMED: Final = Claim()
# As a Counter of the client library's has it, which uWSGI's workers use.
_EXITS: Final = schemas.counter(*metrics.WORKER_EXITS, ("reason",))


class Layout:
    """
    The *rows* of a source, in the order of its columns, and their *width*: the number of columns.

    Slots whose key files are alike share one layout.
    """

    def __init__(self, rows: Iterable[Row] = (), before: Layout | None = None) -> None:
        self.rows: list[Row] = [*before.rows, *rows] if before else list(rows)
        self.width = sum([schema.stride for schema, _ in self.rows])
        self._schemas: list[Schema] = list(before._schemas) if before else []
        self._memo: file_format.Memo = before._memo if before else file_format.Memo()
        # Weak: while processes meet new label sets, each scrape makes layouts that the next one no longer needs.
        self._successors: weakref.WeakValueDictionary[bytes, Layout] = weakref.WeakValueDictionary()

    @cached_property
    def starts(self) -> list[int]:
        """The first column of each row, which has its start time, and the width."""
        return list(accumulate([schema.stride for schema, _ in self.rows], initial=0))

    def extended(self, lines: bytes, room: int) -> Layout:
        """
        Return the layout of a key file that continues with *lines*, whose value file has *room* columns.

        Raises FormatError if *room* is too small, and for lines that are not of our format.
        """
        # The lines themselves would take half as much memory as the columns, for each slot.
        key = blake2b(lines).digest()
        layout = self._successors.get(key)
        if layout is None:
            schemas = list(self._schemas)
            layout = Layout(file_format.parse_lines(lines, schemas, self._memo), self)
            layout._schemas = schemas
        # Before the collector makes room for the rows: a damaged schema may claim any width.
        if layout.width > room:
            raise FormatError(f"values for {room} columns, the keys ask for {layout.width}")
        self._successors[key] = layout
        return layout


@dataclass(frozen=True)
class Reading:
    """
    What one source held at one moment: *data* are its columns, doubles in the order of its layout.

    *key* identifies the source from scrape to scrape. *name* tells processes apart on the page: the slot's number, or a pid
    for another source. *nonce* is that of a slot's files, whatever its number, and None for another source; *file* (device
    and inode) tells copies of the same slot apart. *claim* is of the process that holds the slot, or held it last. A source
    that is *kept* counts with its last reading when it is gone. *removed* are the positions of removed rows among those of the
    layout: their columns are 0.
    """

    layout: Layout
    data: bytes
    key: Hashable
    name: str
    live: bool
    nonce: int | None = None
    file: tuple[int, int] | None = None
    claim: Claim = _UNCLAIMED
    kept: bool = False
    removed: frozenset[int] = frozenset()


class SlotSource:
    """
    The files of slot *number* in the directory *path*. Each scrape reads the values, and of the keys only what is new.

    *root* is the empty layout that all sources of a collector start from.
    """

    def __init__(self, path: Path, number: int, root: Layout) -> None:
        self._values = path / directory.slot_file(number, "values")
        self._keys = path / directory.slot_file(number, "keys")
        self._number = number
        self._root = self._layout = root
        self._nonce = -1
        self._committed = 0

    def read(self, lock_file: LockFile | None, owners: frozenset[int] | None = None) -> list[Reading]:
        """
        Read the slot. Without a *lock_file* (somebody has removed it), its process counts as ended.

        *owners* are the uids whose files are read, None for all. Raises FormatError, OSError.
        """
        fd, status = open_plain(self._values, owners)
        try:
            header = os.pread(fd, file_format.HEADER.size, 0)
            nonce, committed = file_format.unpack_header(header)
            if nonce != self._nonce or committed != self._committed:
                # The size now, after the header was read: the values of all committed keys are within it.
                room = (os.fstat(fd).st_size - file_format.HEADER.size) // 8
                self._read_keys(nonce, committed, min(room, _MOST_COLUMNS), owners)
            data, removed = self._read_values(fd)
        finally:
            os.close(fd)
        holder = None if lock_file is None else lock_file.holder(locks.FIRST_SLOT + self._number)
        # A process that has the lock but has not claimed the slot yet has not cleared the former owner's gauges either.
        claim = Claim.read(header)
        live = holder is not None and claim.may_be_of(holder)
        identity = status.st_dev, status.st_ino
        return [
            Reading(
                self._layout,
                data,
                nonce,
                str(self._number),
                live,
                nonce,
                identity,
                claim,
                kept=True,
                removed=removed,
            )
        ]

    def _read_values(self, fd: int) -> tuple[bytes, frozenset[int]]:
        """Return the columns of all rows, and which of the rows are removed."""
        size = 8 * self._layout.width
        for _ in range(_TRIES):
            number = os.pread(fd, 8, 8 * file_format.REMOVED)
            # First the start times, for which the values that are read after them are right.
            starts = os.pread(fd, size, file_format.HEADER.size) if any(number) else b""
            data = os.pread(fd, size, file_format.HEADER.size)
            if os.pread(fd, 8, 8 * file_format.REMOVED) == number:
                break
        if len(data) != size or (starts and len(starts) != size):
            raise FormatError(f"{self._values} holds {len(data)} bytes of values, its keys ask for {size}")
        return self._without_removed(data, starts) if starts else (data, frozenset())

    def _without_removed(self, data: bytes, starts: bytes) -> tuple[bytes, frozenset[int]]:
        """Return *data* with zeros in the rows that are removed, as their *starts* say, and which rows these are."""
        columns, firsts = array("d", starts), self._layout.starts
        removed = frozenset([number for number, first in enumerate(firsts[:-1]) if columns[first] < 0])
        kept = array("d", data)
        for number in removed:
            row = slice(firsts[number], firsts[number + 1])
            kept[row] = array("d", bytes(8 * (row.stop - row.start)))
        return kept.tobytes() if removed else data, removed

    def _read_keys(self, nonce: int, committed: int, room: int, owners: frozenset[int] | None) -> None:
        known = nonce == self._nonce and committed > self._committed
        start = self._committed if known else 0
        fd, status = open_plain(self._keys, owners)
        try:
            # A damaged header may ask for any amount of memory.
            if committed > min(status.st_size, _MOST_KEYS):
                raise FormatError(f"{self._keys} has {status.st_size} bytes, {committed} are committed")
            lines = os.pread(fd, committed - start, start)
        finally:
            os.close(fd)
        if not known:
            file_format.check_keys(lines, nonce, committed)
            lines = lines[len(file_format.keys_header(nonce)) :]
        elif len(lines) != committed - start or lines[-1:] != b"\n":
            raise FormatError(f"{self._keys} ends before {committed} bytes, which are committed")
        self._layout = (self._layout if known else self._root).extended(lines, room)
        self._nonce, self._committed = nonce, committed


class ExitsSource:
    """The exits of workers that the arbiter *number* in the directory *path* has counted."""

    def __init__(self, path: Path, number: int, root: Layout) -> None:
        self._path = path
        self._number = number
        self._layout = root

    def read(self) -> list[Reading]:
        """Read its file. Raises FormatError, OSError."""
        with directory_files.opened(self._path) as folder:
            counts = exit_counts.read(folder, self._number)
        rows = [(_EXITS, (reason,)) for reason in counts]
        if rows != self._layout.rows:
            self._layout = Layout(rows)
        data = array("d", [column for count in counts.values() for column in (0.0, count)]).tobytes()
        return [Reading(self._layout, data, ("exits", self._number), "", live=False, kept=True)]


def read_memory(slot: MemorySlot) -> list[Reading]:
    """Read what this process recorded in its own memory, when no directory is shared."""
    rows = slot.rows()
    layout = Layout([(schema, labelvalues) for schema, labelvalues, _ in rows])
    data = array("d", [value for _, _, values in rows for value in values]).tobytes()
    return [Reading(layout, data, "memory", str(os.getpid()), live=True)]
