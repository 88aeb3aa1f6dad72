"""
A directory that is made for the processes of one name: a server, and those that join it, whichever of them starts first.

It outlives each of them as long as one of the others lives, so that a server which is started again goes on in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsgi_prom.store import locks
from wsgi_prom.store.directory_names import is_named
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

_SLOTS: Final = range(locks.FIRST_SLOT, locks.FIRST_SLOT + 65536)
# Beyond the bytes of roles. Held by an exporter that was started by hand, and serves until it is told to end.
KEPT: Final = 1 << 21


def gone_for_good(path: Path) -> bool:
    """
    Return whether *path*, as this process or its parent knew it, was removed at the end of its server, and is not made again.

    That of a name is: the next process of the name makes it.
    """
    return LockFile.known_discarded(path) and not is_named(path)


def in_use(lock_file: LockFile) -> bool:
    """
    Return whether another process records in the directory of *lock_file*, or an exporter that was started by hand serves it.
    """
    return lock_file.is_held_by_others(_SLOTS) or lock_file.is_held_by_others(range(KEPT, KEPT + 1))
