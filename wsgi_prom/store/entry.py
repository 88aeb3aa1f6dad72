"""Entering the shared directory while the last process that used it may be removing it (directory.discard)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wsgi_prom.store import directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.store.directory_walk import Owner
    from wsgi_prom.store.locks import LockFile

# A removal takes milliseconds. What is still marked after a second was left by a process that was killed.
_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.05


def enter(
    path: Path, hold: Callable[[LockFile], object], *, new: bool = False, owner: Owner | None = None
) -> LockFile:
    """
    Have *hold* take bytes of the lock file of *path*, which is made if it is missing, so that the directory stays. Return that
    file.

    *hold* is called again if another process has removed the directory meanwhile. *new* and *owner* are those of
    `directory.prepare` (*new* of the first attempt). Raises DirectoryError.
    """
    for attempt in range(_ATTEMPTS):
        lock_file = directory.prepare(path, new=new and attempt == 0, owner=owner)
        hold(lock_file)
        # After that: a process that removes the directory looks for holders after it has set its mark, so one sees the other.
        if lock_file.current(path) and not lock_file.discarded:
            return lock_file
        time.sleep(_PAUSE_SECONDS)
    lock_file.mark_used()
    return lock_file
