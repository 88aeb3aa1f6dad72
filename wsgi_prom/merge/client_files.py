"""
The files of processes that record by the client library's own multiprocess mode, and the archive of those that have ended.
"""

# Rule 1: another process may add files to the archive, and remove them, while they are read here: what was read counts
#         only if the archive is the same before and after, and every file that was listed could be opened.
# Rule 2: for a file that cannot be read, what it had at the last scrape counts, for as long as it is there.

from __future__ import annotations

import json
import math
import os
from array import array
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.merge.readers import Layout, Reading
from wsgi_prom.store import archive, client_format, file_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from wsgi_prom.store.client_format import Entry, Origin
    from wsgi_prom.store.file_format import Row

    Part = tuple[str, str]  # the type of metric, or the mode of a gauge, and the key
    Setting = tuple[Part, float, float]  # of a gauge: its value, and when that was set

_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_TRIES: Final = 10


class ClientFiles:
    """
    The files of the client library's own in the directory *path*, read again at each scrape.

    *root* is the empty layout that all sources of a collector start from.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, tuple[Origin, list[Entry]]] = {}
        self._archive = archive.Archive()
        self._archived: tuple[int, ...] | None = None  # the state of the archive that was read
        self._rows: dict[Part, Row] = {}
        self._layouts: dict[str, tuple[list[Part], Layout]] = {}
        self.unreadable: list[str] = []

    def read(self, owners: frozenset[int] | None = None) -> list[Reading]:
        """
        Read all of them. One that cannot be read is *unreadable* afterwards, no error.

        *owners* are the uids whose files count, None for all. Raises OSError if the directory cannot be read.
        """
        for _ in range(_TRIES):
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if self._look(folder, owners):
                    break
            finally:
                os.close(folder)
        if not self._files and not self._archive.generation:
            self._layouts = {}
            return []
        return list(self._readings())

    def _look(self, folder: int, owners: frozenset[int] | None) -> bool:
        """Read the directory *folder*. Returns whether that is what was there at one moment."""
        self.unreadable = []
        rows: dict[Part, Row] = {}
        state = _state(folder)
        if state is None:
            self._archive, self._archived = archive.Archive(), None
        else:
            try:
                if state != self._archived:
                    found = archive.read(folder, owners)
                    self._learn(rows, (*found.sums, *found.gauges))
                    self._archive, self._archived = found, state
            except (OSError, FormatError):
                self.unreadable.append(archive.NAME)
        self._learn(rows, (*self._archive.sums, *self._archive.gauges))
        files: dict[str, tuple[Origin, list[Entry]]] = {}
        complete = True
        for name in sorted(os.listdir(folder)):
            origin = self._origin(name)
            if origin is None:
                continue
            try:
                files[name] = origin, self._entries(folder, name, origin, owners, rows)
            except FileNotFoundError:
                complete = False
            except (OSError, FormatError) as error:
                if isinstance(error, BlockingIOError):  # another process checks whether it is in use
                    complete = False
                else:
                    self.unreadable.append(name)
                if name in self._files:
                    files[name] = self._files[name]
                    self._learn(rows, parts_of(*files[name]))
        self._files, self._rows = files, rows
        return complete and state == _state(folder)

    def _origin(self, name: str) -> Origin | None:
        """Return what the file *name* tells, None for one that is none of the library's, or is in the archive."""
        ended = archive.ended(name)
        if ended is None:
            return client_format.origin(name)
        return client_format.origin(ended[1]) if ended[0] > self._archive.generation else None

    def _entries(
        self, folder: int, name: str, origin: Origin, owners: frozenset[int] | None, rows: dict[Part, Row]
    ) -> list[Entry]:
        fd = os.open(name, _READ_FLAGS, dir_fd=folder)
        try:
            client_format.check_plain(fd, owners)
            entries = client_format.read_entries(fd)
        finally:
            os.close(fd)
        self._learn(rows, parts_of(origin, entries))
        return entries

    def _learn(self, rows: dict[Part, Row], parts: Iterable[Part]) -> None:
        """Have in *rows* what *parts* mean. Raises FormatError, and adds none of them then, for keys that mean nothing."""
        rows.update({part: rows.get(part) or self._rows.get(part) or row_of(part) for part in parts})

    def _readings(self) -> Iterator[Reading]:
        sums: dict[Part, list[float]] = {part: list(parts) for part, parts in self._archive.sums.items()}
        gauges: dict[str, tuple[str, list[Setting]]] = {}
        for (mode, key), left in self._archive.gauges.items():
            # Of each process that `all` gauges are left of, and of nobody.
            source = f"{archive.NAME} {left.pid if mode == 'all' else ''}"
            setting = (mode, key), archive.total(left.parts), left.timestamp
            gauges.setdefault(source, (left.pid, []))[1].append(setting)
        for name, (origin, entries) in self._files.items():
            if origin.type == "gauge":
                gauges[name] = origin.pid, [((origin.mode, key), value, when) for key, value, when in entries]
            else:
                for key, value, _ in entries:
                    sums.setdefault((origin.type, key), []).append(value)
        self._layouts = {name: kept for name, kept in self._layouts.items() if name in gauges or not name}
        if sums:
            columns = array("d", map(archive.total, sums.values()))
            yield self._reading("", "", list(sums), columns)
        for name, (pid, found) in gauges.items():
            columns = array("d")
            for (mode, _), value, when in found:
                second = when if mode.endswith("mostrecent") else 1.0  # the process has this gauge
                columns.extend((value, second)[: 1 if mode.endswith("sum") else 2])
            yield self._reading(name, pid, [part for part, _, _ in found], columns)

    def _reading(self, name: str, pid: str, parts: list[Part], columns: array[float]) -> Reading:
        kept = self._layouts.get(name)
        if kept is None or kept[0] != parts:
            kept = self._layouts[name] = parts, Layout([self._rows[part] for part in parts])
        layout = kept[1]
        return Reading(layout, columns.tobytes(), f"client {name}", pid, live=True)


def parts_of(origin: Origin, entries: Iterable[Entry]) -> list[Part]:
    """Return what the *entries* of a file are values of."""
    kind = origin.mode or origin.type
    return [(kind, key) for key, _, _ in entries]


def _state(folder: int) -> tuple[int, ...] | None:
    try:
        found = os.stat(archive.NAME, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


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
        return file_format.counter(metric_name, help_text, names), values
    if kind not in {"summary", "histogram"}:
        return file_format.gauge(metric_name, help_text, names, kind), values
    positions = tuple(range(len(names)))
    # One value of a child: a count, a sum or a bucket. The child is put together from such parts.
    columns: dict[str, tuple[int, int]] = {"total": (0, 1)}
    if kind == "summary" and name.endswith("_count"):
        columns = {"count": (0, 1)}
    elif bounds:
        columns = {"buckets": (0, 1)}
    metric = file_format.Metric(kind, metric_name, help_text, positions, bounds=bounds, **columns)  # type: ignore[arg-type]
    return file_format.Schema(names, 1, (metric,)), values
