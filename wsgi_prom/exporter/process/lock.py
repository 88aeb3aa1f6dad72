"""
The lock that allows one exporter per directory.

1. An exporter takes the lock exclusively. From then on its supervisor and its serving process share it, so that the lock is
   held whichever of them is killed. A process that is told to end releases it as soon as it no longer listens.
2. If the directory was removed and made again, it has another lock file: the exporter takes the lock there too.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.process.watch import send_signal
from wsgi_prom.store import directory, directory_files, directory_names, entry, locks, named_directory
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.tmpfiles import TmpfilesLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Longer than an exporter takes to end in order, even where its last clients are slow.
_TAKE_OVER_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.005


class ExporterLock:
    """
    The exporter lock of the directory *path*, whose lock file is *lock_file*.

    *launch* is the number that the server gave this exporter, None for one that was started by hand. An exporter does not take
    the lock once the server has started a later one. A forked child does not hold the lock until it calls `keep`. For one
    thread of a process at a time.
    """

    def __init__(self, path: Path, lock_file: LockFile, launch: int | None = None) -> None:
        self.path = path
        self._launch = launch
        # All of them: a server that started before the directory was made again holds its byte in a former file.
        self._lock_files = [lock_file]
        self._tmpfiles_lock = TmpfilesLock()
        # Whether it holds KEPT.
        self._keeps = False

    @property
    def _lock_file(self) -> LockFile:
        return self._lock_files[-1]

    def holder(self) -> int | None:
        """Return the pid of a process that holds the lock, 0 for one in another pid namespace, None if there is none."""
        return self._lock_file.holder(locks.EXPORTER)

    def take(self) -> bool:
        """Take the lock. False if the directory has an exporter, or this one is superseded."""
        if self.superseded() or not self._lock_file.acquire(locks.EXPORTER):
            return False
        # Again: a server that called this exporter off before it had the lock did not see it as a holder.
        if self.superseded():
            self.release()
            return False
        if self._launch is not None:
            with suppress(OSError):
                self._lock_file.set_number(locks.UP, self._launch)
        return True

    def superseded(self) -> bool:
        """Return whether the server has since started another exporter, or called this one off."""
        return self._launch is not None and self._lock_file.number(locks.LAUNCHED) not in {0, self._launch}

    def take_over(self) -> bool:
        """
        Send SIGTERM to the exporter that holds the lock, and take the lock when it is released.

        False if that exporter cannot be signalled (another pid namespace, another user), or if this one is superseded.
        """
        deadline = time.monotonic() + _TAKE_OVER_SECONDS
        signalled: set[int] = set()
        while not self.take():
            if self.superseded():
                return False
            late = time.monotonic() > deadline
            holder = self.holder()
            if holder == 0:
                return False
            # The exporter's second process shows as the holder once the first has released its share. SIGKILL also ends a
            # stopped process.
            if holder is not None and (late or holder not in signalled):
                signalled.add(holder)
                try:
                    send_signal(holder, signal.SIGKILL if late else signal.SIGTERM)
                except PermissionError:
                    return False
            time.sleep(_POLL_SECONDS)
        return True

    def release(self) -> None:
        """Allow another exporter. Never raises."""
        with suppress(OSError):
            # A worker starts no other in the place of an exporter that ended in order.
            if self._lock_file.number(locks.UP) == self._launch:
                self._lock_file.set_number(locks.UP, 0)
        self._lock_file.release(locks.EXPORTER)

    def share(self) -> bool:
        """Hold the lock together with the other process of this exporter. False if another exporter holds it."""
        try:
            return self._lock_file.share(locks.EXPORTER)
        except OSError:  # the kernel is out of locks: `keep` tries again
            return True

    def keep(self) -> None:
        """
        Hold the lock in the directory that has the path now, and keep systemd-tmpfiles out of it.

        Each process of the exporter calls it once a second (a dozen system calls). It does not make a missing directory, which
        may be gone for good with its server. Never raises.
        """
        # `opened` refuses a directory that belongs to another user by now.
        with suppress(OSError, DirectoryError), directory_files.opened(self.path, os.geteuid()) as folder:
            found = LockFile.within(folder, self.path)
            if found is not self._lock_file:
                self._lock_files.append(found)
                if self._keeps:
                    self._hold_kept(found)
            self._tmpfiles_lock.keep(folder)
        if not self._lock_file.mine(locks.EXPORTER):
            self.share()

    def keep_at_exec(self) -> None:
        """Let the program that this process executes next hold the lock. Raises OSError."""
        self._lock_file.keep_at_exec()

    def remove_directory(self) -> bool:
        """
        Remove the directory if it was made for a server and no server uses it. Return whether it may be tried again. Never
        raises.
        """
        if next(self.servers(), None) is not None:
            return False
        return not directory.discard(self.path, self._lock_file) and directory_names.is_named(self.path)

    @classmethod
    @contextmanager
    def keeping_directory(cls, path: Path, launch: int | None = None) -> Iterator[ExporterLock]:
        """
        Make the directory *path* if it is missing, and yield its lock, for an exporter that was started by hand.

        The directory of a name is kept meanwhile, and removed then if it is not used. Raises DirectoryError.
        """
        if not directory_names.is_named(path):
            yield cls(path, directory.prepare(path), launch)
            return
        lock = cls(path, entry.enter(path, cls._hold_kept), launch)
        lock._keeps = True
        try:
            yield lock
        finally:
            lock._lock_file.release(named_directory.KEPT)
            lock.remove_directory()

    @staticmethod
    def _hold_kept(lock_file: LockFile) -> None:
        # Shared: an exporter that replaces this one holds it before this one ends.
        lock_file.share(named_directory.KEPT)

    def servers(self) -> Iterator[int]:
        """Yield the pids of the masters that use the directory, 0 for one in another pid namespace."""
        for lock_file in self._lock_files:
            yield from lock_file.servers()
