"""The search for a slot that this process can claim."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from wsgi_prom.store import locks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.store.locks import LockFile
    from wsgi_prom.store.slots import SharedSlot

# How many slots with files that cannot be used are passed over before a claim fails.
_MOST_UNUSABLE: Final = 16


def first_usable(
    lock_file: LockFile, numbers: Iterable[int], opened: Callable[[int], SharedSlot | None]
) -> SharedSlot:
    """Return the first slot of *numbers* whose record lock is free and for which *opened* does not return None."""
    unusable = 0
    for number in numbers:
        byte = locks.FIRST_SLOT + number
        if not lock_file.acquire(byte):
            continue
        try:
            slot = opened(number)
        except BaseException as error:
            lock_file.release(byte)
            unusable += 1
            if unusable > _MOST_UNUSABLE or not _is_of_one_slot(error):
                raise
            continue
        if slot is not None:
            return slot
        lock_file.release(byte)
    raise OSError(errno.ENOSPC, "all slots are taken")


def _is_of_one_slot(error: BaseException) -> bool:
    """Return whether *error* may be of the files of one slot: no full disk, no lack of descriptors."""
    if isinstance(error, OSError):
        return error.errno in {errno.EACCES, errno.EPERM, errno.EIO}
    return isinstance(error, Exception)
