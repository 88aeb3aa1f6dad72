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
import weakref
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client.mmap_dict import MmapedDict

from wsgi_prom.errors import FormatError
from wsgi_prom.storage import directory, format, locks  # noqa: A004 - the module of that name is the room

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.storage.families import Entry
    from wsgi_prom.storage.format import Schema
    from wsgi_prom.storage.locks import Locks
    from wsgi_prom.storage.slots import MemorySlot

Block = tuple["Schema", tuple[str, ...]]

# What the client library's reader, json and float raise at files and keys that hold anything; MemoryError at a size
# that is only claimed.
_UNREADABLE: Final = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, MemoryError, struct.error,
)  # fmt: skip

# Not blocking on a FIFO, not following a link to somewhere else.
_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Layout:
    """
    The blocks of a value file, in the order of their columns. Slots whose key files are alike share one.

    *entries* and *gauges* are the collector's: where each block's columns go.
    """

    __slots__ = (
        "__weakref__",
        "_schemas",
        "_successors",
        "blocks",
        "entries",
        "gauges",
        "generation",
        "width",
    )

    def __init__(self, blocks: list[Block], schemas: list[Schema]) -> None:
        self.blocks = blocks
        self.width = sum(schema.width for schema, _ in blocks)
        self._schemas = schemas
        # Weakly: while label sets are still being met, each scrape sees layouts that no slot has any more at the next.
        self._successors: weakref.WeakValueDictionary[bytes, Layout] = weakref.WeakValueDictionary()
        self.generation = 0
        self.entries: list[tuple[Entry, int, int]] = []
        self.gauges: list[tuple[Entry, int, int]] = []

    def extended(self, lines: bytes) -> Layout:
        """Return the layout of a key file that goes on with *lines*."""
        layout = self._successors.get(lines)
        if layout is None:
            schemas = list(self._schemas)
            layout = Layout([*self.blocks, *format.parse_lines(lines, schemas)], schemas)
            self._successors[lines] = layout
        return layout


@dataclass(frozen=True)
class Reading:
    """
    What one source holds at one moment. *pid* is the label that tells gauges of several processes apart.

    *slot* is the nonce of a slot's files, whatever its number, None for another source; *file* tells copies apart.
    """

    layout: Layout
    columns: list[float]
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
        fd = _open(self._values)
        try:
            nonce, committed = format.unpack_header(os.pread(fd, format.HEADER.size, 0))
            if nonce != self._nonce or committed != self._committed:
                self._read_keys(nonce, committed)
            size = 8 * self._layout.width
            data = os.pread(fd, size, format.HEADER.size)
            found = os.fstat(fd)
        finally:
            os.close(fd)
        if len(data) != size:
            raise FormatError(f"{self._values} holds {len(data)} bytes of values, its keys ask for {size}")
        live = lock_file is not None and lock_file.holder(locks.FIRST_SLOT + self._number) is not None
        file = found.st_dev, found.st_ino
        return Reading(self._layout, _doubles(data), str(self._number), live, self._nonce, file)

    def _read_keys(self, nonce: int, committed: int) -> None:
        known = nonce == self._nonce and committed > self._committed
        start = self._committed if known else 0
        fd = _open(self._keys)
        try:
            if committed > os.fstat(fd).st_size:  # and not as much memory as a damaged header asks for
                raise FormatError(f"{self._keys} ends before {committed} bytes, which are committed")
            lines = os.pread(fd, committed - start, start)
        finally:
            os.close(fd)
        if not known:
            format.check_keys(lines, nonce, committed)
            lines = lines[len(format.keys_header(nonce)) :]
        elif len(lines) != committed - start or lines[-1:] != b"\n":
            raise FormatError(f"{self._keys} ends before {committed} bytes, which are committed")
        self._layout = (self._layout if known else self._root).extended(lines)
        self._nonce, self._committed = nonce, committed


class ClientSource:
    """A file of the client library's multiprocess mode: of a process that runs without wsgi_prom."""

    def __init__(self, path: Path) -> None:
        self._path = path
        name = path.stem.split("_")
        self._type = name[0]
        # The identifier may hold underscores: the library allows any function in the place of os.getpid.
        self._mode = name[1] if self._type == "gauge" else ""
        self._pid = "_".join(name[2:] if self._type == "gauge" else name[1:])
        self._keys: list[str] = []
        self._layout = Layout([], [])

    def read(self) -> Reading:
        try:
            os.close(_open(self._path))  # the library would wait for a FIFO's writer
            found = list(MmapedDict.read_all_values_from_file(str(self._path)))  # type: ignore[no-untyped-call]
            keys = [key for key, *_ in found]
            if keys != self._keys:
                self._layout = Layout([_client_block(self._type, self._mode, key) for key in keys], [])
                self._keys = keys
        except _UNREADABLE as error:
            raise FormatError(f"{self._path}: {error}") from error
        columns: list[float] = []
        for (schema, _), (_, value, timestamp, _) in zip(self._layout.blocks, found, strict=True):
            second = timestamp if self._mode.endswith("mostrecent") else 1.0  # the process has this gauge
            columns += (value, second)[: schema.width]
        return Reading(self._layout, columns, self._pid, live=True)


class MemorySource:
    """What this process recorded in its own memory, where it shares no directory."""

    def __init__(self, slot: MemorySlot) -> None:
        self._slot = slot
        self._layout = Layout([], [])

    def read(self) -> Reading:
        found = self._slot.blocks()
        if len(found) != len(self._layout.blocks):
            self._layout = Layout([(schema, values) for schema, values, _ in found], [])
        columns = [value for _, _, values in found for value in values]
        return Reading(self._layout, columns, str(os.getpid()), live=True)


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


def _doubles(data: bytes) -> list[float]:
    return list(memoryview(data).cast("d"))


def _open(path: Path) -> int:
    fd = os.open(path, _READ_FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError(f"{path} is not a plain file")
    return fd
