"""
The CPU time of a server's processes, as its exporter has counted it: a small file that the next exporter goes on from.

1. Only the exporter of the directory writes it, and replaces it in one step.
2. A process is known by its pid and its time of start, which mean something in one pid namespace: in another one the file is refused.
3. A directory that is being removed gets no file.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.errors import FormatError
from wsgi_prom.store import claims, directory_files
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

    Series = tuple[str, str]  # the slot's number, or nothing, and the role
    Identity = tuple[int, int]  # the pid, and the time of start in clock ticks after boot
    Ticks = tuple[int, int]  # clock ticks that a process has used, and that its ended children have

NAME: Final = "wsgi_prom.processes"
# 10,000 processes. A longer file is not written, and not read.
_MOST_BYTES: Final = 1 << 20
_MOST: Final = 2**53
_WORKER: Final = re.compile(r"(0|[1-9]\d{0,5})?", re.ASCII)
_ROLE: Final = re.compile(r"[a-z]{1,16}", re.ASCII)


class Counted(NamedTuple):
    """The *totals* of all series, and what each process had used when it was last *seen*, which is in them."""

    totals: dict[Series, Ticks]
    seen: dict[Identity, Ticks]


def own(name: str) -> bool:
    """Return whether a file *name* is this one, or a new one that is to replace it."""
    return name in {NAME, f"{NAME}.new"}


def read(path: Path) -> Counted:
    """Return what is in the file of the directory *path*. Raises FormatError for anything but what `write` has written, OSError, DirectoryError."""
    with directory_files.opened(path) as folder:
        fd = directory_files.open_file(NAME, folder, os.O_RDONLY, create=False)
        try:
            data = os.pread(fd, _MOST_BYTES + 1, 0)
        finally:
            os.close(fd)
    if len(data) > _MOST_BYTES:
        raise FormatError(f"{NAME} is too long")
    try:
        namespace, totals, seen = json.loads(data)
        if not namespace or namespace != claims.namespace():
            raise FormatError(f"{NAME} is of another pid namespace")
        return Counted(
            {_series(worker, role): _ticks(*used) for worker, role, *used in totals},
            {_ticks(pid, started): _ticks(*used) for pid, started, *used in seen},
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{NAME} holds no CPU times: {error}") from error


def write(path: Path, counted: Counted) -> None:
    """Replace the file in the directory *path*, in one step. Raises OSError, DirectoryError, and leaves the former one then."""
    rows = [[[*key, *used] for key, used in found.items()] for found in counted]
    data = json.dumps([claims.namespace(), *rows]).encode("ascii")
    if len(data) > _MOST_BYTES:
        return
    with directory_files.opened(path) as folder:
        lock_file = LockFile.within(folder, path)
        discarded = lock_file.discarded
        if discarded:
            return
        directory_files.replace_file(NAME, folder, data)
        if lock_file.discarded:  # since then: its files may have been listed before
            with suppress(FileNotFoundError):
                os.unlink(NAME, dir_fd=folder)


def _series(worker: Any, role: Any) -> Series:
    if not _WORKER.fullmatch(worker) or not _ROLE.fullmatch(role):
        raise ValueError(f"no series: {worker!r}, {role!r}")
    return worker, role


def _ticks(first: Any, second: Any) -> tuple[int, int]:
    for number in (first, second):
        if type(number) is not int or not 0 <= number < _MOST:
            raise ValueError(f"no number: {number!r}")
    return first, second
