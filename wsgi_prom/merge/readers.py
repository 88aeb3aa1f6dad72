"""
Where a scrape reads from: the slots of a directory, and this process's memory.

Every source yields a `Reading`: a layout, which says what the columns mean, and the columns.
"""

# Rule 1: a source is read, never mapped: a file that somebody cuts short meanwhile is an error and not SIGBUS.
# Rule 2: the header is read before the keys, and the values last, in the order of their becoming valid.
# Rule 3: whatever is wrong with a file is a FormatError or an OSError: the collector leaves that file out.

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory, file_format, locks
from wsgi_prom.store.claims import Claim
from wsgi_prom.store.client_format import check_plain

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from wsgi_prom.merge.layouts import Layout
    from wsgi_prom.store.locks import Locks
    from wsgi_prom.store.slots import MemorySlot

# What a slot may hold, in bytes of keys and in columns: a million label sets. More than that is damage, or a file with
# nothing in it: it would take all memory to find out.
_MOST_KEYS: Final = 2**28
_MOST_COLUMNS: Final = 2**24

# Not blocking on a FIFO, not following a link to somewhere else.
_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True)
class Reading:
    """
    What one source holds at one moment: *data* are its columns, in the order of its layout.

    *key* names the source from scrape to scrape, and *pid* is the label that tells gauges of several processes apart.
    *slot* is the nonce of a slot's files, whatever its number, None for another source; *file* tells copies apart.
    """

    layout: Layout
    data: bytes
    key: Hashable
    pid: str
    live: bool
    slot: int | None = None
    file: tuple[int, int] | None = None


class SlotSource:
    """
    The files of one slot, read again at each scrape; keys only as far as they are new.

    *root* is the empty layout that all sources of a collector start from.
    """

    def __init__(self, path: Path, number: int, root: Layout) -> None:
        self._values = path / directory.slot_file(number, "values")
        self._keys = path / directory.slot_file(number, "keys")
        self._number = number
        self._root = self._layout = root
        self._nonce = -1
        self._committed = 0

    def read(self, lock_file: Locks | None, owners: frozenset[int] | None = None) -> list[Reading]:
        """
        Read the slot. Without a *lock_file*, as when somebody has removed it, nobody is known to live.

        *owners* are the uids whose files count, None for all. Raises FormatError, OSError.
        """
        fd, found = _open(self._values, owners)
        try:
            header = os.pread(fd, file_format.HEADER.size, 0)
            nonce, committed = file_format.unpack_header(header)
            if nonce != self._nonce or committed != self._committed:
                # The size as it is after the header was read: what is committed there fits in.
                room = (os.fstat(fd).st_size - file_format.HEADER.size) // 8
                self._read_keys(nonce, committed, min(room, _MOST_COLUMNS), owners)
            size = 8 * self._layout.width
            data = os.pread(fd, size, file_format.HEADER.size)
        finally:
            os.close(fd)
        if len(data) != size:
            raise FormatError(f"{self._values} holds {len(data)} bytes of values, its keys ask for {size}")
        holder = None if lock_file is None else lock_file.holder(locks.FIRST_SLOT + self._number)
        # A process that has the lock and has not claimed the slot yet has not cleared its former owner's gauges either.
        live = holder is not None and Claim.read(header).may_be_of(holder)
        data = self._layout.folded(data)
        identity = found.st_dev, found.st_ino
        return [Reading(self._layout, data, nonce, str(self._number), live, nonce, identity)]

    def _read_keys(self, nonce: int, committed: int, room: int, owners: frozenset[int] | None) -> None:
        known = nonce == self._nonce and committed > self._committed
        start = self._committed if known else 0
        fd, found = _open(self._keys, owners)
        try:
            if committed > min(
                found.st_size, _MOST_KEYS
            ):  # and not as much memory as a damaged header asks for
                raise FormatError(f"{self._keys} has {found.st_size} bytes, {committed} are committed")
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


class MemorySource:
    """What this process recorded in its own memory, where it shares no directory."""

    def __init__(self, slot: MemorySlot, root: Layout) -> None:
        self._slot = slot
        self._root = self._layout = root

    def read(self) -> list[Reading]:
        found = self._slot.rows()
        if len(found) != len(self._layout.numbers):
            self._layout = self._root.of([(schema, values) for schema, values, _ in found])
        data = array("d", [value for _, _, values in found for value in values]).tobytes()
        return [Reading(self._layout, data, "memory", str(os.getpid()), live=True)]


def _open(path: Path, owners: frozenset[int] | None) -> tuple[int, os.stat_result]:
    fd = os.open(path, _READ_FLAGS)
    try:
        check_plain(fd, owners)
        return fd, os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise
