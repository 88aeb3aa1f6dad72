"""
A value file in this process's memory, which outlives what happens to the file.

Whoever may write to the file may also cut it short, and the kernel answers a store to a page that is gone with SIGBUS,
the end of a worker. Here empty memory is mapped over the hole, the store is done again, and succeeds.
"""

# Rule 1: space is reserved before it is mapped: a store to a page that a full tmpfs cannot give is SIGBUS too.
# Rule 2: a mapping is never moved. A file that grows is mapped once more, and both mappings are the same pages; what
#         takes the file's place is mapped at the same addresses. Whoever holds a view and an index may keep them.

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    from wsgi_prom.store import faults
except ImportError:  # a Python that was built without libffi has no ctypes
    faults = None  # type: ignore[assignment]


class Mapping:
    """
    The first *size* bytes of the file *fd*, as views of its words and doubles.

    *on_loss* is called when the file turns out to be cut short: in a signal's handler, so that it may do no more than
    set a flag. From then on the mapping holds what this process has stored since, and zeros. Raises OSError when there
    is no space for so many bytes.
    """

    def __init__(self, fd: int, size: int, on_loss: Callable[[], None]) -> None:
        self._on_loss = on_loss
        # Kept, so that no other memory can come to be at an address that is taken for ours.
        self._maps: list[tuple[int, int]] = []
        self.lost = False
        self.size = _reserved(fd, size)
        self.grow(fd, size)
        _all.append(self)
        if faults is not None:
            faults.catch(_handle)

    def grow(self, fd: int, size: int) -> None:
        """Map *size* bytes, also where the file is mapped already, and reserve what is new of them. Raises OSError."""
        # What is there already may be stored to: where the file system cannot reserve, glibc reads a byte of each block and
        # writes it back (sysdeps/posix/posix_fallocate.c).
        if size > self.size:
            os.posix_fallocate(fd, self.size, size - self.size)
        self.memory, start = (
            (memoryview(mmap.mmap(fd, size)), 0) if faults is None else faults.map_file(fd, size)
        )
        self._maps.append((start, size))
        self.size = size
        self.words = self.memory.cast("Q")
        self.columns = self.memory.cast("d")

    def __contains__(self, address: int) -> bool:
        return any(start <= address < start + size for start, size in self._maps)

    def give_up(self) -> None:
        """Put empty memory in the place of the file, for good."""
        self.lost = True
        if faults is not None:
            for start, size in self._maps:
                faults.map_over(start, size, None)

    def move_to(self, fd: int) -> None:
        """
        Put the file *fd* in the place of the present one, with the same contents.

        Nobody may store to it meanwhile. Raises OSError when there is no space.
        """
        if faults is None:
            raise OSError(errno.ENOSYS, "this Python has no ctypes")
        os.posix_fallocate(fd, 0, self.size)
        with mmap.mmap(fd, self.size) as memory:
            memory[:] = self.memory
            if self.lost:  # in the middle of it
                raise OSError(errno.EIO, "the value file was cut short")
        for start, size in self._maps:
            faults.map_over(start, size, fd)

    def close(self) -> None:
        """Look after it no more. The views stay valid for as long as anybody has them."""
        with suppress(ValueError):
            _all.remove(self)

    def lose(self) -> None:
        self.give_up()
        self._on_loss()


def _reserved(fd: int, size: int) -> int:
    """Return how many of the first *size* bytes of the file *fd* have space: none if it may have holes."""
    found = os.fstat(fd)
    return min(found.st_size, size) if found.st_blocks * 512 >= min(found.st_size, size) else 0


_all: Final[list[Mapping]] = []


def _handle(address: int) -> bool:
    for mapping in _all:
        if address in mapping:
            try:
                mapping.lose()
            except OSError:  # no memory to put there: the fault is what it would be without us
                return False
            return True
    return False
