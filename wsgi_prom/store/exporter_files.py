"""
Small files that the exporter of a directory writes, and the next exporter goes on from.

1. Only the exporter of the directory writes them, and replaces each in one step.
2. A directory that is being removed gets none.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory_files
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES: Final = "wsgi_prom.processes"
QUEUES: Final = "wsgi_prom.queues"
# No count is higher: a double tells all whole numbers below it apart.
MOST: Final = 2**53
_NAMES: Final = frozenset({PROCESSES, f"{PROCESSES}.new", QUEUES, f"{QUEUES}.new"})
# 10,000 processes. A longer file is not written, and not read.
_MOST_BYTES: Final = 1 << 20


def own(name: str) -> bool:
    """Return whether a file *name* is one of these, or a new one that is to replace it."""
    return name in _NAMES


def read(path: Path, name: str) -> Any:
    """
    Return what is in the file *name* of the directory *path*. Raises FormatError for anything but JSON, OSError,
    DirectoryError.
    """
    with directory_files.opened(path) as folder:
        data = directory_files.read_file(name, folder, _MOST_BYTES)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} is no JSON: {error}") from error


def write(path: Path, name: str, content: Any) -> None:
    """
    Replace the file *name* of the directory *path* by one with *content*.

    Raises OSError, DirectoryError, and leaves the former one then.
    """
    data = json.dumps(content).encode("ascii")
    if len(data) > _MOST_BYTES:
        return
    with directory_files.opened(path) as folder:
        lock_file = LockFile.within(folder, path)
        discarded = lock_file.discarded
        if discarded:
            return
        directory_files.replace_file(name, folder, data)
        if lock_file.discarded:  # since then: its files may have been listed before
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
