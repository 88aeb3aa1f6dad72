"""The lock that keeps systemd-tmpfiles from cleaning a directory."""

from __future__ import annotations

import fcntl
import os


class TmpfilesLock:
    """
    A shared BSD lock on a directory, which keeps systemd-tmpfiles from cleaning it by age: files of ended workers too.

    tmpfiles.d(5), Age: a locked directory is skipped with all below it. (Tried with 252: an unlocked one beside it was
    emptied, and so was one with a locked file in it.) A forked child has the lock too.
    """

    def __init__(self) -> None:
        self._fd: int | None = None

    def keep(self, folder: int) -> None:
        """Hold the lock on the directory that is open as *folder*. Call it about once a second. Raises OSError."""
        if self._fd is not None and os.path.samestat(os.fstat(folder), os.fstat(self._fd)):
            return
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # systemd-tmpfiles holds it, alone, while it looks into the directory
            os.close(fd)
            raise
        self._fd, before = fd, self._fd
        if before is not None:
            os.close(before)
