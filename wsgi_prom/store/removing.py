"""
The lock that a process holds on a slot's value file while it removes rows there.

A removal reads which row has a label set, and marks it a moment later. If the slot's owner gave the row to another label set
in between, the removal would take that one. So the owner asks first, after it has written the row's new labels: a removal
that is in progress may know the former ones, and one that begins later reads the new ones.

1. It is a lock of the open file (F_OFD_SETLK), which tells threads of one process apart, and is shared: removals do not
   wait for each other.
2. The owner only asks and takes nothing, so that nobody waits for it either. While a stopped process holds the lock, the
   owner makes rows at the end of its files.
3. The lock is held for some microseconds: a removal reads the keys before, and looks whether they have changed.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.store.locks import FLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKS: Final = 50


@contextmanager
def removing(fd: int) -> Iterator[None]:
    """Hold the lock on the value file that the caller has opened as *fd*."""
    # gVisor has no such locks; there no row is used for another label set.
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK))
    try:
        yield
    finally:
        # Not by closing the file alone, which a child that was forked meanwhile has open too.
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK))


def in_progress(fd: int) -> bool:
    """Return whether another open file of the value file *fd* is locked, and stays so; True where the kernel cannot tell."""
    with suppress(OSError):
        for _ in range(_LOOKS):
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK))
            if FLOCK.unpack(found)[0] == fcntl.F_UNLCK:
                return False
            os.sched_yield()
    return True


def _lock(kind: int) -> bytes:
    return FLOCK.pack(kind, os.SEEK_SET, 0, 1, 0)
