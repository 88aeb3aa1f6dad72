"""
Read the files of processes that record by the client library's own multiprocess mode, and the archive of those that have ended.

1. Another process may add files to the archive, and remove them, during a scrape: a look counts only if the archive is the
   same before and after, and every listed file could be opened.
2. A file that cannot be read counts with its entries of the last scrape, for as long as it is there.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.merge.readers import Layout, Reading
from wsgi_prom.store import archive, client_format, schemas
from wsgi_prom.store.directory_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wsgi_prom.store.client_format import Entry, Origin
    from wsgi_prom.store.schemas import Row

    Part = tuple[str, str]  # the type of metric, or the mode of a gauge, and the key
    Setting = tuple[Part, float, float]  # of a gauge: its value, and when that was set

_TRIES: Final = 10


class ClientFiles:
    """The client library's files in the directory *path*, all read again at each scrape."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, tuple[Origin, list[Entry]]] = {}
        self._archive = archive.Archive()
        self._archived: tuple[int, ...] | None = None  # the state of the archive that was read
        # By source. The layout stays the same object, whose rows are placed among the sums once.
        self._layouts: dict[str, tuple[list[Part], Layout]] = {}
        self.unreadable: list[str] = []

    def read(self, owners: frozenset[int] | None = None) -> list[Reading]:
        """
        Read all of them. A file that cannot be read is listed in *unreadable* afterwards, and is no error.

        *owners* are the uids whose files are read, None for all. Raises OSError if the directory cannot be read.
        """
        for _ in range(_TRIES):
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if self._look(folder, owners):
                    break
            finally:
                os.close(folder)
        readings = [*self._sums(), *self._gauges()]
        kept = {reading.key for reading in readings}
        self._layouts = {key: found for key, found in self._layouts.items() if key in kept}
        return readings

    def _look(self, folder: int, owners: frozenset[int] | None) -> bool:
        """Read the directory that is open as *folder*. Return whether it was the same from beginning to end."""
        self.unreadable = []
        state = _state(folder)
        self._read_archive(folder, state)
        files: dict[str, tuple[Origin, list[Entry]]] = {}
        complete = True
        for name in sorted(os.listdir(folder)):
            origin = self._origin(name)
            if origin is None:
                continue
            try:
                files[name] = origin, _entries(folder, name, origin, owners)
            except FileNotFoundError:
                complete = False
            except (OSError, FormatError) as error:
                if isinstance(error, BlockingIOError):  # another process checks whether it is in use
                    complete = False
                else:
                    self.unreadable.append(name)
                if name in self._files:
                    files[name] = self._files[name]
        self._files = files
        return complete and state == _state(folder)

    def _read_archive(self, folder: int, state: tuple[int, ...] | None) -> None:
        if state is None:
            self._archive, self._archived = archive.Archive(), None
        elif state != self._archived:
            try:
                found = archive.read(folder)
                for part in (*found.sums, *found.gauges):
                    row_of(part)
                self._archive, self._archived = found, state
            except (OSError, FormatError):
                self.unreadable.append(archive.NAME)

    def _origin(self, name: str) -> Origin | None:
        """Return what the name of a file tells, None if it is not the library's, or if the archive has the file."""
        ended = archive.ended(name)
        if ended is None:
            return client_format.origin(name)
        return client_format.origin(ended[1]) if ended[0] > self._archive.generation else None

    def _sums(self) -> Iterator[Reading]:
        """Yield everything that is added up as one source, whose totals are the same before and after files are archived."""
        sums: dict[Part, list[float]] = {part: list(parts) for part, parts in self._archive.sums.items()}
        for origin, entries in self._files.values():
            if origin.type != "gauge":
                for key, value, _ in entries:
                    sums.setdefault((origin.type, key), []).append(value)
        if sums:
            # No start time is known, here and below.
            columns = array(
                "d", [column for parts in sums.values() for column in (0.0, archive.total(parts))]
            )
            yield self._reading("client", "", list(sums), columns)

    def _gauges(self) -> Iterator[Reading]:
        """Yield the gauges of each file as a source, and of the archive one for each process that left `all` gauges."""
        gauges: dict[str, tuple[str, list[Setting]]] = {}
        for (mode, key), left in self._archive.gauges.items():
            source = f"{archive.NAME} {left.pid if mode == 'all' else ''}"
            setting = (mode, key), archive.total(left.parts), left.timestamp
            gauges.setdefault(source, (left.pid, []))[1].append(setting)
        for name, (origin, entries) in self._files.items():
            if origin.type == "gauge":
                gauges[name] = origin.pid, [((origin.mode, key), value, when) for key, value, when in entries]
        for name, (pid, settings) in gauges.items():
            columns = array("d")
            for (mode, _), value, when in settings:
                second = when if mode.endswith("mostrecent") else 1.0  # the process has set this gauge
                columns.extend((0.0, value) if mode.endswith("sum") else (0.0, value, second))
            yield self._reading(f"client {name}", pid, [part for part, _, _ in settings], columns)

    def _reading(self, key: str, pid: str, parts: list[Part], columns: array[float]) -> Reading:
        kept = self._layouts.get(key)
        if kept is None or kept[0] != parts:
            kept = self._layouts[key] = parts, Layout(map(row_of, parts))
        return Reading(kept[1], columns.tobytes(), key, pid, live=True)


def check_entries(origin: Origin, entries: list[Entry]) -> None:
    """Raise FormatError if the client library makes no such keys in a file of that *origin*."""
    for key, _, _ in entries:
        row_of((origin.mode or origin.type, key))


@lru_cache(maxsize=16384)  # to parse a key takes 10 us, and files of many processes have the same ones
def row_of(part: Part) -> Row:
    """Return what a key means. Raises FormatError for one that the client library does not make."""
    kind, key = part
    try:
        metric_name, name, labels, help_text = json.loads(key)
        if not all(isinstance(text, str) for text in (metric_name, name, help_text)):
            raise FormatError(f"{key!r} is no key of a value")
        bounds = (float(labels.pop("le")),) if name.endswith("_bucket") and kind == "histogram" else ()
        names, values = tuple(labels), tuple(str(value) for value in labels.values())
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(f"{key!r} is no key of a value: {error}") from error
    if any(map(math.isnan, bounds)):
        raise FormatError(f"{key!r} has no bound")
    if kind == "counter":
        return schemas.counter(metric_name, help_text, names), values
    if kind not in {"summary", "histogram"}:
        return schemas.gauge(metric_name, help_text, names, kind), values
    # One value of a label set: a count, a sum or a bucket. The merge puts the label set together from such rows.
    columns: dict[str, tuple[int, int]] = {"total": (0, 1)}
    if kind == "summary" and name.endswith("_count"):
        columns = {"count": (0, 1)}
    elif bounds:
        columns = {"buckets": (0, 1)}
    positions = tuple(range(len(names)))
    metric = schemas.Metric(kind, metric_name, help_text, positions, bounds=bounds, **columns)  # type: ignore[arg-type]
    return schemas.Schema(names, 1, (metric,)), values


def _entries(folder: int, name: str, origin: Origin, owners: frozenset[int] | None) -> list[Entry]:
    fd, _ = open_plain(name, owners, folder=folder)
    try:
        entries = client_format.read_entries(fd)
    finally:
        os.close(fd)
    check_entries(origin, entries)
    return entries


def _state(folder: int) -> tuple[int, ...] | None:
    try:
        found = os.stat(archive.NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
