"""
A file descriptor that knows when other code of the process has closed it.

Code that becomes a daemon closes all descriptors, and opens files of its own under the same numbers.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress


class Descriptor:
    """The file that is open as *fd*. Raises OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        status = os.fstat(fd)
        self.identity = status.st_dev, status.st_ino

    def number(self) -> int:
        """Return the number, for immediate use. Raises OSError if it is closed, or is another file's by now."""
        status = os.fstat(self._fd)
        if (status.st_dev, status.st_ino) != self.identity:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._fd

    def is_open(self) -> bool:
        try:
            self.number()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close it, unless that is done; never another file."""
        with suppress(OSError):
            fd, self._fd = self.number(), -1
            os.close(fd)
