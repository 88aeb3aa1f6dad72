"""
A file of targets for Prometheus' file_sd, which one process at a time keeps.

1. A reader finds the former file or the new one, never half of one: a new file is renamed over it.
2. Whoever keeps the file holds a record lock on it, for writing, and locks a new one before it takes the place. So nobody writes over
   the file of a living process, and a file without such a lock is abandoned: who can only read it can take no more than a read lock.
3. Everybody can read it (0644): Prometheus runs as another user, and it holds addresses, no secrets.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsgi_prom.errors import WsgiPromError
from wsgi_prom.store.directory_files import SAFE_FLAGS
from wsgi_prom.store.locks import FLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence


class TargetFileError(WsgiPromError):
    """The file cannot be written."""


class TargetFile:
    """The file at *path*, in a directory that is there. Not for two threads at once."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._new = self._path.with_name(f".{self._path.name}.new")
        # The descriptor by which this process holds the file, and what is in it.
        self._held: int | None = None
        self._content = b""
        # The file that this process has written last.
        self._written: os.stat_result | None = None

    def write(self, groups: Sequence[Any]) -> None:
        """
        Have *groups* in the file, as JSON. Does nothing if they are.

        Raises TargetFileError, whose text goes on behind the file's path: the file is another process's, or cannot be written.
        """
        content = json.dumps(groups, indent=2).encode("ascii") + b"\n"
        try:
            if content != self._content or not self._is_held():
                self._replace(content)
        except OSError as error:
            raise TargetFileError(
                f"cannot be written: {error.strerror}. Name a file in a directory that this process (uid {os.geteuid()}) can write to"
            ) from error

    def release(self) -> None:
        """Let another process have the file, without a change to it."""
        if self._held is not None:
            os.close(self._held)
        self._held, self._content = None, b""

    def remove(self) -> None:
        """Remove the file that this process has written, unless there is another by now, or another process keeps it. Never raises."""
        with suppress(OSError, TargetFileError):
            if self.is_as_written() and (self._is_held() or self._take()):
                self._path.unlink()
        self.release()

    def is_as_written(self) -> bool:
        """Return whether the file at the path is the one that this process has written."""
        try:
            return self._written is not None and os.path.samestat(self._written, self._path.lstat())
        except OSError:  # gone, or nobody can tell
            return False

    def _is_held(self) -> bool:
        """Return whether the file at the path is the one that this process holds: somebody may have removed or replaced it."""
        try:
            return self._held is not None and os.path.samestat(os.fstat(self._held), self._path.lstat())
        except FileNotFoundError:
            return False

    def _take(self) -> bool:
        """Lock the file that is there. Returns whether there is one. Raises TargetFileError if another process has it."""
        try:
            fd = _opened(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        if not _lock(fd):
            os.close(fd)
            raise TargetFileError("is kept by another process. Give each server a file of its own")
        self.release()
        self._held = fd
        # False if it was replaced since it was opened.
        return self._is_held()

    def _replace(self, content: bytes) -> None:
        new = _opened(self._new, os.O_RDWR | os.O_CREAT)
        # Only who holds the lock of the new file may put it in the place of the other. Nobody else can read it before that.
        if not _lock(new) or not os.path.samestat(os.fstat(new), self._new.lstat()):
            os.close(new)
            raise TargetFileError("is written by another process now. Give each server a file of its own")
        try:
            if not self._is_held():
                self._take()
            os.ftruncate(new, 0)
            with os.fdopen(os.dup(new), "wb") as file:
                file.write(content)
            os.fchmod(new, 0o644)
            self._new.rename(self._path)
        except BaseException:
            with suppress(OSError):
                self._new.unlink()
            os.close(new)
            raise
        self.release()
        self._held, self._content, self._written = new, content, os.fstat(new)


def _opened(path: Path, flags: int) -> int:
    """Open the plain file at *path* of this user. Raises OSError for any other: the directory may be open to everybody."""
    fd = os.open(path, flags | SAFE_FLAGS, 0o600)
    found = os.fstat(fd)
    if found.st_uid == os.geteuid() and found.st_nlink == 1:
        return fd
    os.close(fd)
    raise PermissionError(
        errno.EPERM, f"it belongs to uid {found.st_uid}, this process runs as uid {os.geteuid()}"
    )


def _lock(fd: int) -> bool:
    """
    Lock the file that is open as *fd*, for writing. Return False if another process keeps it.

    True without a lock where a reader holds a read lock on it. The lock is of the open file (F_OFD_SETLK): this process may open and close
    the file elsewhere.
    """
    lock = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except (BlockingIOError, PermissionError):
        return bool(FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock))[0] == fcntl.F_RDLCK)
    except OSError as error:
        if error.errno != errno.EINVAL:  # gVisor knows no such locks
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
