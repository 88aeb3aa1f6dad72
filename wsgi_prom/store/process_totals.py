"""
The CPU time of a server's processes, as its exporter has counted it, which the next exporter goes on from.

A process is known by its pid and its time of start, which mean something in one pid namespace: in another one the file is
refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.errors import FormatError
from wsgi_prom.store import claims, exporter_files, joined_role
from wsgi_prom.store.exporter_files import MOST, PROCESSES

if TYPE_CHECKING:
    from pathlib import Path

    Series = tuple[str, str]  # the slot's number, or nothing, and the role
    Identity = tuple[int, int]  # the pid, and the time of start in clock ticks after boot
    Ticks = tuple[int, int]  # clock ticks that a process has used, and that its ended children have

_WORKER: Final = re.compile(r"(0|[1-9]\d{0,5})?", re.ASCII)


class Counted(NamedTuple):
    """The *totals* of all series, and what each process had used when it was last *seen*, which is in them."""

    totals: dict[Series, Ticks]
    seen: dict[Identity, Ticks]


def read(path: Path) -> Counted:
    """
    Return what is in the file of the directory *path*. Raises FormatError for anything but what `write` has written, OSError,
    DirectoryError.
    """
    found = exporter_files.read(path, PROCESSES)
    try:
        namespace, totals, seen = found
        if not namespace or namespace != claims.namespace():
            raise FormatError(f"{PROCESSES} is of another pid namespace")
        return Counted(
            {_series(worker, role): _ticks(*used) for worker, role, *used in totals},
            {_ticks(pid, started): _ticks(*used) for pid, started, *used in seen},
        )
    except (ValueError, TypeError) as error:
        raise FormatError(f"{PROCESSES} holds no CPU times: {error}") from error


def write(path: Path, counted: Counted) -> None:
    """Replace the file in the directory *path*, in one step. Raises OSError, DirectoryError, and leaves the former one then."""
    rows = [[[*key, *used] for key, used in found.items()] for found in counted]
    exporter_files.write(path, PROCESSES, [claims.namespace(), *rows])


def _series(worker: Any, role: Any) -> Series:
    if not _WORKER.fullmatch(worker) or not joined_role.PATTERN.fullmatch(role):
        raise ValueError(f"no series: {worker!r}, {role!r}")
    return worker, role


def _ticks(first: Any, second: Any) -> tuple[int, int]:
    for number in (first, second):
        if type(number) is not int or not 0 <= number < MOST:
            raise ValueError(f"no number: {number!r}")
    return first, second
