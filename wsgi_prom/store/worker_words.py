"""
Words that a uWSGI's workers share, two for each: a file that the master maps before it forks, so that they outlive its reload.

The server's number among those of the directory names the file. Where there is no space for it, the words are in memory alone.
"""

from __future__ import annotations

import mmap
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory_files

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = re.compile(r"wsgi_prom\.workers\.\d{1,2}", re.ASCII)
# Python's mmap closes a descriptor when it is collected.
_kept_mappings: Final[list[mmap.mmap]] = []


def own(name: str) -> bool:
    """Return whether a file *name* is one of these."""
    return _FILE.fullmatch(name) is not None


def words(path: Path, number: int | None, workers: int, *, again: bool) -> memoryview[int]:
    """
    Return two words for each of *workers*: those of file *number* in the directory *path*, as they were if they are used *again*, else 0.
    """
    size = 16 * workers
    mapped = None
    if number is not None:
        with suppress(OSError, DirectoryError), directory_files.opened(path) as folder:
            fd = directory_files.open_file(f"wsgi_prom.workers.{number}", folder, os.O_RDWR)
            try:
                os.posix_fallocate(fd, 0, size)
                if not again:  # not cut short: it may be mapped
                    os.pwrite(fd, bytes(size), 0)
                mapped = mmap.mmap(fd, size)
            finally:
                os.close(fd)
    _kept_mappings.append(mapped or mmap.mmap(-1, size))
    return memoryview(_kept_mappings[-1]).cast("Q")
