"""
A directory that is made for the processes of one name: a server, and those that join it, whichever of them starts first.

It outlives each of them as long as one of the others lives, so that a server which is started again goes on in it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from wsgi_prom.store import locks
from wsgi_prom.store.locks import LockFile

# Memory-backed on every current distribution; a store to a page of a disk's file may wait for its write-back.
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of its own is made below it, or refused
_NAME: Final = re.compile(r"wsgi_prom-\d+\.[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_SLOTS: Final = range(locks.FIRST_SLOT, locks.FIRST_SLOT + 65536)
# Beyond the bytes of roles. Held by an exporter that was started by hand, and serves until it is told to end.
KEPT: Final = 1 << 21


def base() -> Path:
    """
    Return where directories are made that nobody has chosen: on tmpfs, or where other temporary files are.

    Never raises: where nothing can be written to, it is a place where no directory can be made.
    """
    if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        import tempfile  # noqa: PLC0415 - 4 ms that each worker would pay

        with suppress(FileNotFoundError):  # there is no temporary directory either
            return Path(tempfile.gettempdir())
    return _SHARED_MEMORY


def directory_of(name: str, uid: int | None = None) -> Path:
    """Return the directory of the processes of the user *uid*, by default the caller's, that share *name*. Makes nothing."""
    return base() / f"wsgi_prom-{os.geteuid() if uid is None else uid}.{name}"


def is_named(path: Path) -> bool:
    """Return whether *path* is that of a name."""
    return _NAME.fullmatch(path.name) is not None


def is_of(path: Path, name: str) -> bool:
    """Return whether *path* is where processes of one user meet that have *name*."""
    return is_named(path) and path.name.partition(".")[2] == name


def is_own(path: Path) -> bool:
    """Return whether *path* is where processes of the caller's user meet that share a name: any of them may make it."""
    return is_named(path) and path == base() / f"wsgi_prom-{os.geteuid()}.{path.name.partition('.')[2]}"


def gone_for_good(path: Path) -> bool:
    """
    Return whether *path*, as this process or its parent knew it, was removed at the end of its server, and is not made again.

    That of a name is: the next process of the name makes it.
    """
    return LockFile.known_discarded(path) and not is_named(path)


def in_use(lock_file: LockFile) -> bool:
    """Return whether another process records in the directory of *lock_file*, or an exporter that was started by hand serves it."""
    return lock_file.is_held_by_others(_SLOTS) or lock_file.is_held_by_others(range(KEPT, KEPT + 1))
