"""
Where a scrape reads from: the slots of a directory, files of the client library's own, and this process's memory.

Every source yields a `Reading`: a layout, which says what the columns mean, and the columns.
"""

# Rule 1: a source is read, never mapped: a file that somebody cuts short meanwhile is an error and not SIGBUS.
# Rule 2: the header is read before the keys, and the values last, in the order of their becoming valid.
# Rule 3: whatever is wrong with a file is a FormatError or an OSError: the collector leaves that file out.

from __future__ import annotations

import json
import math
import os
import stat
import struct
from array import array
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client.mmap_dict import MmapedDict

from wsgi_prom.errors import FormatError
from wsgi_prom.storage import directory, format, locks  # noqa: A004 - the module of that name is the room

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from wsgi_prom.storage.format import Block
    from wsgi_prom.storage.layouts import Layout
    from wsgi_prom.storage.locks import Locks
    from wsgi_prom.storage.slots import MemorySlot

# What the client library's reader, json and float raise at files and keys that hold anything; MemoryError at a size
# that is only claimed.
_UNREADABLE: Final = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, MemoryError, struct.error,
)  # fmt: skip

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

    def read(self, lock_file: Locks | None) -> Reading:
        """Read the slot. Without a *lock_file*, as when somebody has removed it, nobody is known to live."""
        fd, found = _open(self._values)
        try:
            nonce, committed = format.unpack_header(os.pread(fd, format.HEADER.size, 0))
            if nonce != self._nonce or committed != self._committed:
                # The size as it is after the header was read: what is committed there fits in.
                room = (os.fstat(fd).st_size - format.HEADER.size) // 8
                self._read_keys(nonce, committed, room)
            size = 8 * self._layout.width
            data = os.pread(fd, size, format.HEADER.size)
        finally:
            os.close(fd)
        if len(data) != size:
            raise FormatError(f"{self._values} holds {len(data)} bytes of values, its keys ask for {size}")
        live = lock_file is not None and lock_file.holder(locks.FIRST_SLOT + self._number) is not None
        data = self._layout.folded(data)
        return Reading(
            self._layout, data, nonce, str(self._number), live, nonce, (found.st_dev, found.st_ino)
        )

    def _read_keys(self, nonce: int, committed: int, room: int) -> None:
        known = nonce == self._nonce and committed > self._committed
        start = self._committed if known else 0
        fd, found = _open(self._keys)
        try:
            if committed > found.st_size:  # and not as much memory as a damaged header asks for
                raise FormatError(f"{self._keys} ends before {committed} bytes, which are committed")
            lines = os.pread(fd, committed - start, start)
        finally:
            os.close(fd)
        if not known:
            format.check_keys(lines, nonce, committed)
            lines = lines[len(format.keys_header(nonce)) :]
        elif len(lines) != committed - start or lines[-1:] != b"\n":
            raise FormatError(f"{self._keys} ends before {committed} bytes, which are committed")
        self._layout = (self._layout if known else self._root).extended(lines, room)
        self._nonce, self._committed = nonce, committed


class ClientSource:
    """A file of the client library's multiprocess mode: of a process that runs without wsgi_prom."""

    def __init__(self, path: Path, root: Layout) -> None:
        self._path = path
        self._root = root
        name = path.stem.split("_")
        self._type = name[0]
        # The identifier may hold underscores: the library allows any function in the place of os.getpid.
        self._mode = name[1] if self._type == "gauge" else ""
        self._pid = "_".join(name[2:] if self._type == "gauge" else name[1:])
        self._keys: list[str] = []
        self._layout = root.of([])

    def read(self) -> Reading:
        try:
            os.close(_open(self._path)[0])  # the library would wait for a FIFO's writer
            found = list(MmapedDict.read_all_values_from_file(str(self._path)))  # type: ignore[no-untyped-call]
            keys = [key for key, *_ in found]
            if keys != self._keys:
                self._layout = self._root.of([_client_block(self._type, self._mode, key) for key in keys])
                self._keys = keys
        except _UNREADABLE as error:
            raise FormatError(f"{self._path}: {error}") from error
        columns = array("d")
        width = 1 if self._type != "gauge" or self._mode.endswith("sum") else 2
        for _, value, timestamp, _ in found:
            second = timestamp if self._mode.endswith("mostrecent") else 1.0  # the process has this gauge
            columns.extend((value, second)[:width])
        data = self._layout.folded(columns.tobytes())
        return Reading(self._layout, data, self._path.name, self._pid, live=True)


class MemorySource:
    """What this process recorded in its own memory, where it shares no directory."""

    def __init__(self, slot: MemorySlot, root: Layout) -> None:
        self._slot = slot
        self._root = self._layout = root

    def read(self) -> Reading:
        found = self._slot.blocks()
        if len(found) != len(self._layout.numbers):
            self._layout = self._root.of([(schema, values) for schema, values, _ in found])
        data = array("d", [value for _, _, values in found for value in values]).tobytes()
        return Reading(self._layout, data, "memory", str(os.getpid()), live=True)


@cache
def _client_block(typ: str, mode: str, key: str) -> Block:
    metric_name, name, labels, help_text = json.loads(key)
    if not all(isinstance(text, str) for text in (metric_name, name, help_text)):
        raise FormatError(f"{key!r} is no key of a value")
    bounds = (float(labels.pop("le")),) if name.endswith("_bucket") and typ == "histogram" else ()
    if any(map(math.isnan, bounds)):
        raise FormatError(f"{key!r} has no bound")
    names, values = tuple(labels), tuple(str(value) for value in labels.values())
    if typ == "counter":
        return format.counter(metric_name, help_text, names), values
    if typ == "gauge":
        return format.gauge(metric_name, help_text, names, mode), values
    positions = tuple(range(len(names)))
    # One value of a child: a count, a sum or a bucket. The child is put together from such parts.
    part: dict[str, tuple[int, int]] = {"total": (0, 1)}
    if typ == "summary" and name.endswith("_count"):
        part = {"count": (0, 1)}
    elif bounds:
        part = {"buckets": (0, 1)}
    metric = format.Metric(typ, metric_name, help_text, positions, bounds=bounds, **part)  # type: ignore[arg-type]
    return format.Schema(names, 1, (metric,)), values


def _open(path: Path) -> tuple[int, os.stat_result]:
    fd = os.open(path, _READ_FLAGS)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise FormatError(f"{path} is not a plain file")
    return fd, found
