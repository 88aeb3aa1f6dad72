"""Two bytes that are 0 in a forked child, whoever called fork and however it was called."""

from __future__ import annotations

import mmap
import os
from typing import Final, Protocol

# linux/mman.h; the mmap module of Python has no name for it.
_MADV_WIPEONFORK: Final = 18
# No kernel knows it.
_MADV_IMPOSSIBLE: Final = 9999


class ForkGuard(Protocol):
    """
    Two bytes that are 0 in a forked child.

    `CurrentSlot` sets byte 0 when records may be stored as they are, and byte 1 once it has let go of its parent's slot.
    """

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class PidGuard:
    """The fork guard where the kernel has none: right under every fork too, at the price of a getpid a look."""

    def __init__(self) -> None:
        self._pids = [0, 0]

    def __getitem__(self, index: int) -> int:
        return int(self._pids[index] == os.getpid())

    def __setitem__(self, index: int, value: int) -> None:
        self._pids[index] = os.getpid() if value else 0


def new_fork_guard(page: mmap.mmap | None = None) -> ForkGuard:
    """Return *page* (tests give one), by default a new one, if the kernel fills it with zeros in a child, else a `PidGuard`."""
    # os.register_at_fork would not do: uWSGI forks its workers without running its callbacks
    # (plugins/python/python_plugin.c, uwsgi_python_post_fork), and os.getpid() at each record costs 130 to 220 ns where a
    # look at this page costs 25.
    if page is None:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # qemu-user answers 0 to any advice and takes none (QEMU bug 1875702).
    if _takes(page, _MADV_IMPOSSIBLE) or not _takes(page, _MADV_WIPEONFORK):
        return PidGuard()
    return page


def _takes(page: mmap.mmap, advice: int) -> bool:
    try:
        page.madvise(advice)
    except OSError:  # for _MADV_WIPEONFORK: Linux before 4.14
        return False
    return True
