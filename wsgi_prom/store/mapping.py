"""
A file of values as memory of this process: mapped once, as far as it may ever grow, for as long as the process lives.

That is address space alone, 32 MiB, of which a process touches what it uses. The kernel maps what lies behind the end of a
file; Python's mmap refuses it, so the file is made as long for a moment.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from wsgi_prom.store.file_format import LARGEST_VALUES

# Python's mmap has a descriptor of its own and closes its number in the end, whatever file that number is by then.
_kept: Final[list[mmap.mmap]] = []


def mapped(fd: int, size: int) -> memoryview:
    """Reserve space for the first *size* bytes of the file *fd*, and map it. Raises OSError, MemoryError."""
    os.posix_fallocate(fd, 0, size)
    length = os.fstat(fd).st_size
    if length == LARGEST_VALUES:  # its last owner was killed between the two lines below
        length = size
    os.ftruncate(fd, LARGEST_VALUES)
    try:
        _kept.append(mmap.mmap(fd, LARGEST_VALUES))
    finally:
        os.ftruncate(fd, length)
    return memoryview(_kept[-1])


def pages(size: int) -> int:
    """Return *size* in bytes, rounded up to whole pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
