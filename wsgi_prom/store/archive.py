r"""
The archive: one file with the sums of the client library's files whose processes have ended. It grows with label sets, not
processes.

    wsgi_prom.archive   "wsgi_prom archive <version> <generation>\n", then JSON: the sums, and the gauges
    wsgi_prom.ended.<generation>.<random>.<name>   a file that is to be added, or has been added

1. Only the rename of a new archive adds files: files up to its generation are in it and are removed, files above it are
   read one by one. A kill between two steps neither loses nor doubles a count.
2. A sum is kept as several doubles that add up to it exactly. So the page's total, rounded once, is the same before and
   after files were added, and never goes back by a last digit.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.errors import FormatError
from wsgi_prom.store import client_format, directory_files, locks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.store.client_format import Entry, Origin

NAME: Final = "wsgi_prom.archive"
_ENDED: Final = re.compile(r"wsgi_prom\.ended\.(\d{1,18})\.[0-9a-f]{16}\.(.+)", re.ASCII)
_HEADER: Final = re.compile(rb"wsgi_prom archive 1 (\d{1,18})\n")
# For writing, as `locks.unused` needs it.
LOOK_FLAGS: Final = os.O_RDWR | directory_files.SAFE_FLAGS


class Gauge(NamedTuple):
    """An archived gauge: the parts of its sum or its one value, when that was set, and by which process."""

    parts: tuple[float, ...]
    timestamp: float
    pid: str


class Archive:
    """
    The archive as of *generation*: *sums* by type and key, *gauges* by mode and key.

    Gauges of the `live*` modes show living processes and are not archived. Of mode `all`, the last process stays.
    """

    def __init__(self, generation: int = 0) -> None:
        self.generation = generation
        self.sums: dict[tuple[str, str], tuple[float, ...]] = {}
        self.gauges: dict[tuple[str, str], Gauge] = {}

    def add(self, origin: Origin, entries: Iterable[Entry]) -> None:
        """Add the *entries* of a file. For gauges of mode `all`, the caller adds the file of the last process last."""
        typ, mode, pid = origin
        for key, value, timestamp in entries:
            if typ != "gauge":
                self.sums[typ, key] = exact((*self.sums.get((typ, key), ()), value))
            elif not mode.startswith("live"):
                gauge = Gauge((value,), timestamp, pid)
                before = self.gauges.get((mode, key))
                self.gauges[mode, key] = gauge if before is None else _merged(mode, before, gauge)

    @classmethod
    def parse(cls, data: bytes) -> Archive:
        """Return what `dump` has made of an archive. Raises FormatError for anything else."""
        header = _HEADER.match(data)
        if header is None:
            raise FormatError(f"begins with {data[:40]!r}, which no archive does")
        archive = cls(int(header[1]))
        try:
            sums, gauges = json.loads(data[header.end() :])
            for typ, key, *parts in sums:
                archive.sums[_text(typ), _text(key)] = _numbers(parts)
            for mode, key, timestamp, pid, *parts in gauges:
                archive.gauges[_text(mode), _text(key)] = Gauge(_numbers(parts), float(timestamp), _text(pid))
        except (ValueError, TypeError, RecursionError) as error:
            raise FormatError(f"no archive: {error}") from error
        return archive

    def dump(self) -> bytes:
        sums = [(*name, *parts) for name, parts in self.sums.items()]
        gauges = [(*name, kept.timestamp, kept.pid, *kept.parts) for name, kept in self.gauges.items()]
        lines = json.dumps([sums, gauges], separators=(",", ":"))
        return b"wsgi_prom archive 1 %d\n%s\n" % (self.generation, lines.encode("ascii"))


def exact(values: Iterable[float]) -> tuple[float, ...]:
    """Return the fewest doubles that add up to the sum of *values* exactly; if it is not finite, the sum alone."""
    parts: list[float] = []
    # J. R. Shewchuk, Adaptive Precision Floating-Point Arithmetic, 1997; math.fsum does the same inside.
    for value in values:
        rest = value
        kept = 0
        for part in parts:
            high, low = (rest, part) if abs(rest) >= abs(part) else (part, rest)
            rest = high + low
            error = low - (rest - high)
            if error:
                parts[kept] = error
                kept += 1
        parts[kept:] = [rest]
    return tuple(parts) if all(map(math.isfinite, parts)) else (total(parts),)


def total(values: Iterable[float]) -> float:
    """Return the sum of *values*, rounded once, so that it is the same in any order."""
    terms = list(values)
    try:
        return math.fsum(terms)
    except (
        OverflowError,
        ValueError,
    ):  # a partial sum is too large for a double, or there are infinities of both signs
        return sum(terms)


def read(folder: int) -> Archive:
    """
    Return the archive in the directory that is open as *folder*, an empty one if there is none. Raises FormatError, OSError.
    """
    try:
        return Archive.parse(directory_files.read_file(NAME, folder, client_format.MOST_BYTES))
    except FileNotFoundError:
        return Archive()


def write(folder: int, archive: Archive) -> None:
    """
    Replace the archive in the directory *folder* by *archive*, in one step. Raises OSError, and leaves the former one then.
    """
    directory_files.replace_file(NAME, folder, archive.dump())


def ended_name(number: int, name: str) -> str:
    """Return a unique name for the file *name* of an ended process that generation *number* of the archive is to have."""
    return f"wsgi_prom.ended.{number}.{os.urandom(8).hex()}.{name}"


def ended(name: str) -> tuple[int, str] | None:
    """Return the generation and the former name in a *name* that `ended_name` has made, None for any other name."""
    match = _ENDED.fullmatch(name)
    return (int(match[1]), match[2]) if match and client_format.origin(match[2]) else None


def is_own(name: str) -> bool:
    """Return whether a file *name* is the archive's own: the archive, a new one, or a file that is to be added."""
    return name in {NAME, f"{NAME}.new"} or ended(name) is not None


def is_removable(name: str) -> bool:
    """Return whether a file *name* is the archive's own or the client library's."""
    return is_own(name) or client_format.origin(name) is not None


def process_has_ended(folder: int, name: str) -> bool:
    """Return whether the process of the client library's file *name* in the directory *folder* has surely ended."""
    try:
        fd = os.open(name, LOOK_FLAGS, dir_fd=folder)
    except OSError:
        return False
    try:
        return locks.unused(fd)
    finally:
        os.close(fd)


def _merged(mode: str, before: Gauge, after: Gauge) -> Gauge:
    if mode == "sum":
        return Gauge(exact((*before.parts, *after.parts)), 0.0, "")
    if mode == "mostrecent":
        return after if after.timestamp > before.timestamp else before
    if mode in {"min", "max"}:
        return (min if mode == "min" else max)(before, after, key=lambda gauge: gauge.parts[0])
    return after


def _text(item: Any) -> str:
    if not isinstance(item, str):
        raise TypeError(f"{item!r} is no text")
    return item


def _numbers(items: list[Any]) -> tuple[float, ...]:
    if not items:
        raise ValueError("no numbers")
    return tuple(map(float, items))
