"""
Which processes are alive: one lock file a directory, and a record lock on one of its bytes for each slot, server and exporter.

Record locks (fcntl F_SETLK) belong to the process, not to the open file as flock does: a child that inherits the
descriptor does not keep its parent's slot after the parent died, and F_GETLK tells who holds a byte without taking it.

1. A process loses all its record locks on a file when it closes any descriptor of it (fcntl(2)). So a process opens a
   lock file once, here, and does not close it while it may hold a byte of it.
2. Nothing here waits: a stopped process that holds a byte must not stop another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.store import directory_errors, directory_files
from wsgi_prom.store.descriptor import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME: Final = "wsgi_prom.lock"

EXPORTER: Final = 0
SERVERS: Final = range(1, 62)
LAUNCH: Final = 62  # held while a worker starts an exporter
ARCHIVING: Final = 63  # held while files are added to the archive
FIRST_SLOT: Final = 64
# Numbers that the file holds: of the last launch of an exporter, of the last one that took its lock; of workers, by server.
LAUNCHED: Final = 0
UP: Final = 1
WORKERS: Final = {byte: byte + 1 for byte in SERVERS}

# struct flock of Linux: type, whence, start, length, pid; the last item pads to the alignment of off_t.
FLOCK: Final = struct.Struct("@hhqqi0q")

# Bytes for locks of an open file (F_OFD_SETLK), beyond all others: they exclude the interpreters of one process from each
# other.
_ASKING: Final = 1 << 32

# The length of the lock file of a directory that is being removed. A length takes no space, which a full disk would not have.
_DISCARDED: Final = 7919


class LockFile:
    """
    The lock file of a directory. Safe in threads, and across forks: a child holds none of its parent's bytes. Get it by `of`.
    """

    _opened: Final[dict[tuple[int, int], LockFile]] = {}
    # The last one of each path, whether or not it is still there.
    _known: Final[dict[Path, LockFile]] = {}

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file = Descriptor(fd)
        # The bytes that this interpreter holds; the kernel knows only those of the whole process.
        self._mine: tuple[int, set[int]] = (os.getpid(), set())

    @classmethod
    def of(cls, directory: Path) -> LockFile:
        """
        Open the lock file of *directory*, once in this process.

        Raises FileNotFoundError; DirectoryError for a directory that another user chose, and for a lock file that is not a
        plain file of the directory's user; OSError.
        """
        with directory_files.opened(directory) as folder:
            return cls.within(folder, directory)

    @classmethod
    def within(cls, folder: int, directory: Path, *, create: bool = False) -> LockFile:
        """Do as `of`, for *directory* that is open as *folder*. With *create* the file is made if it is missing."""
        try:
            status = os.lstat(NAME, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
        else:
            opened = cls._opened.get((status.st_dev, status.st_ino))
            if opened is not None and opened._is(status):
                cls._known[directory] = opened
                return opened
        try:
            fd = directory_files.open_file(NAME, folder, os.O_RDWR, create=create)
        except directory_files.NotOwnFileError as error:
            problem = f": {NAME} in it {error.strerror}"
            raise directory_errors.error(directory, problem, directory_errors.FOREIGN_FILE) from error
        status = os.fstat(fd)
        # The loser of a race between threads leaks its descriptor: by rule 1 it may not close it.
        lock_file = cls._opened.setdefault((status.st_dev, status.st_ino), cls(fd))
        if lock_file._fd != fd and not lock_file._is(status):
            lock_file = cls._opened[status.st_dev, status.st_ino] = cls(fd)
        cls._known[directory] = lock_file
        return lock_file

    @classmethod
    def known_discarded(cls, directory: Path) -> bool:
        """Return whether *directory*, as this process or its parent knew it, was removed at the end of its server."""
        known = cls._known.get(directory)
        return known is not None and known.discarded

    @property
    def discarded(self) -> bool:
        """Whether the directory was removed, or is being removed, at the end of its server."""
        try:
            return os.fstat(self._file.number()).st_size == _DISCARDED
        except OSError:
            return False

    def close(self) -> None:
        """Close the file, of which this process must not hold a byte (rule 1): that of a directory it only looked at."""
        opened, known = self._opened, self._known
        for file in [file for file, lock_file in opened.items() if lock_file is self]:
            del opened[file]
        for path in [path for path, lock_file in known.items() if lock_file is self]:
            del known[path]
        self._file.close()

    def mark_discarded(self) -> None:
        """Tell all processes that have the file open that the directory is being removed, so that none makes it again."""
        os.ftruncate(self._file.number(), _DISCARDED)

    def mark_used(self) -> None:
        """Undo `mark_discarded`, for a server that goes on in a directory that another one has half removed."""
        if self.discarded:
            os.ftruncate(self._file.number(), 0)

    def current(self, directory: Path) -> bool:
        """Return whether *directory* still holds this lock file."""
        try:
            return self._is((directory / NAME).lstat())
        except OSError:
            return False

    def lies_in(self, folder: int) -> bool:
        """Return whether this is the lock file of the directory that is open as *folder*."""
        try:
            return self._is(os.lstat(NAME, dir_fd=folder))
        except OSError:
            return False

    def number(self, place: int) -> int:
        """Return the number at *place* (LAUNCHED, UP, WORKERS), 0 if it was not set."""
        return int.from_bytes(os.pread(self._file.number(), 8, 8 * place), "little")

    def set_number(self, place: int, number: int) -> None:
        """Set what `number` returns, in every process. Raises OSError on a full disk."""
        os.pwrite(self._file.number(), number.to_bytes(8, "little"), 8 * place)

    def keep_at_exec(self) -> None:
        """Keep the file open, and with it this process's locks, when the process executes another program. Raises OSError."""
        os.set_inheritable(self._file.number(), True)

    def acquire(self, byte: int) -> bool:
        """
        Take *byte* until this process releases it or ends, however it ends.

        False if another process has it, or another interpreter of this one.
        """
        if self.mine(byte):
            # The kernel may have dropped it (rule 1), as after a backup of the directory by code of this process.
            return self._lock(byte, fcntl.LOCK_EX)
        with self._alone(byte) as alone:
            # The kernel gives a process what it has.
            return alone and self.holder(byte) is None and self._lock(byte, fcntl.LOCK_EX)

    def _lock(self, byte: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._file.number(), kind | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # POSIX lets a system choose between EAGAIN and EACCES
            self._own().discard(byte)
            return False
        self._own().add(byte)
        return True

    def share(self, byte: int) -> bool:
        """Take *byte* beside others who share it, or share what this process held alone. False if another has it alone."""
        return self._lock(byte, fcntl.LOCK_SH)

    def release(self, byte: int) -> None:
        self._own().discard(byte)
        with suppress(OSError):  # closed, and released by that
            fcntl.lockf(self._file.number(), fcntl.LOCK_UN, 1, byte)

    def holder(self, byte: int) -> int | None:
        """Return the pid that holds *byte*, 0 if that process lives in another pid namespace, None if nobody does."""
        return next((pid for _, pid in self.holders(range(byte, byte + 1))), None)

    def holders(self, wanted: range) -> Iterator[tuple[int, int]]:
        """Yield each byte of *wanted* that is held, in their order, and its `holder`."""
        try:
            # A query for an open-file lock also reports this process's own record locks.
            held = dict(self._each_held(fcntl.F_OFD_GETLK, wanted))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # gVisor. This query leaves out what this process holds.
            held = dict.fromkeys(filter(wanted.__contains__, self._own()), os.getpid())
            held.update(self._each_held(fcntl.F_GETLK, wanted))
        yield from sorted(held.items())

    def _each_held(self, command: int, wanted: range) -> Iterator[tuple[int, int]]:
        left = [wanted]
        while left:
            part = left.pop()
            answer = self._held(command, part) if part else None
            # Empty: an answer about other bytes, which would be the same again.
            if answer is not None and answer[0]:
                # The kernel tells any range that one process holds, not the first one.
                held, pid = answer
                left += [range(part.start, held.start), range(held.stop, part.stop)]
                # A process of ours holds a few side by side; another program may lock the whole file.
                yield from ((byte, pid) for byte in held[:256])

    def _held(self, command: int, wanted: range) -> tuple[range, int] | None:
        """Return bytes of *wanted* that one process holds, and its pid (0 in another pid namespace); None if they are free."""
        query = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, wanted.start, len(wanted), 0)
        kind, _, start, length, pid = FLOCK.unpack(fcntl.fcntl(self._file.number(), command, query))
        if kind == fcntl.F_UNLCK:
            return None
        stop = start + length if length else wanted.stop  # 0: to the end of the file
        return range(max(start, wanted.start), min(stop, wanted.stop)), max(pid, 0)

    def is_held_by_others(self, wanted: range) -> bool:
        """Return whether another process holds a byte of *wanted*."""
        return self._held(fcntl.F_GETLK, wanted) is not None

    def servers(self) -> Iterator[int]:
        """Yield the pids of other processes that are masters of servers here; 0 for one in another pid namespace."""
        for byte, pid in self.holders(SERVERS):
            if pid != os.getpid() and not self.mine(byte):
                yield pid

    def has_servers(self) -> bool:
        """Return whether another process is the master of a server here."""
        return any(True for _ in self.servers())

    def _is(self, status: os.stat_result) -> bool:
        return (status.st_dev, status.st_ino) == self._file.identity and self._file.is_open()

    @contextmanager
    def _alone(self, byte: int) -> Iterator[bool]:
        """Yield whether no other interpreter of this process is about to take *byte*."""
        what = _ASKING + byte
        try:
            self._set_file_lock(fcntl.F_WRLCK, what)
        except OSError as error:
            # Without such locks only one interpreter in a process is safe.
            yield error.errno == errno.EINVAL
            return
        try:
            yield True
        finally:
            self._set_file_lock(fcntl.F_UNLCK, what)

    def _set_file_lock(self, kind: int, byte: int) -> None:
        lock = FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(self._file.number(), fcntl.F_OFD_SETLK, lock)

    def mine(self, byte: int) -> bool:
        return byte in self._own()

    def _own(self) -> set[int]:
        pid = os.getpid()
        if self._mine[0] != pid:
            self._mine = (pid, set())
        return self._mine[1]


def unused(fd: int) -> bool:
    """
    Return whether no other process has the file open or mapped; this process has it open as *fd*, for writing, once.

    The kernel gives a write lease on a file to its owner, and only if nobody else has it open (fcntl(2), F_SETLEASE): in
    any pid namespace, whichever user, on tmpfs, ext4 and overlayfs alike (tried). False where it cannot tell.
    """
    try:
        # A process that opens the file meanwhile waits until the lease ends, and the kernel signals this process: by
        # SIGURG, since SIGIO ends a process that has no handler for it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True
