"""
Which label sets a metric may have: one decision for all processes of a directory, without a lock between them.

A process that meets a new label set appends a line to a shared file and reads on to its end. O_APPEND puts the lines
into one order, which is the same for all processes: the first lines of a metric, up to its limit, are allowed.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory_files
from wsgi_prom.store.descriptor import Descriptor
from wsgi_prom.store.file_format import text_line

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "wsgi_prom.labels"

# Added to a metric's name for those of its label sets in which callables' values are OTHER: they have a limit of their own.
FOLDED: Final = " of OTHER"

# Bytes read at a time: as a rule more than all new lines.
_MOST_BYTES: Final = 65536
# A longer file is not used: a hundred workers that meet a thousand label sets of ten metrics at the same time make as much.
_LARGEST: Final = 64 * 1024 * 1024


class LabelSets:
    """
    The label sets that metrics are allowed, in this process and, if *path* is given, in all others that share it.

    Where the file cannot be used, or as long as it cannot be written, a process decides for itself: the limit holds
    for it alone then. Make one after the fork. Thread safe.
    """

    def __init__(self, path: Path | None, limit: int, owner: tuple[int, int] | None = None) -> None:
        self._path = path
        self._limit = limit
        self._uid = os.geteuid() if owner is None else owner[0]
        self._allowed: dict[str, set[tuple[str, ...]]] = {}
        self._file = "" if path is None else str(path / NAME)
        self._offset = 0
        self._opened: Descriptor | None = None
        # Two threads that read on from one offset both move it, past a line of another's: that label set was OTHER for
        # a request (seen under gunicorn's gthread).
        self._lock = threading.RLock()

    def allow(self, metric: str, labels: tuple[str, ...]) -> bool:
        """Return whether *metric* may have *labels*; once it may, it always may. Never raises."""
        allowed = self._allowed.setdefault(metric, set())
        if labels in allowed:
            return True
        if self._path is None:  # without a lock, which a thread may hold that a forked child does not have
            self._decide(labels, allowed)
            return labels in allowed
        with self._lock:
            return self._ask(metric, labels, allowed)

    def _ask(self, metric: str, labels: tuple[str, ...], allowed: set[tuple[str, ...]]) -> bool:
        try:
            if self._missing():
                # First what others have met: each worker that is recycled would else add a line for each label set. (One
                # that lives does, for what others have met since. To look first costs two system calls a label set.)
                self._open()
                self._read(self._new_lines())
            if labels not in allowed and len(allowed) < self._limit:
                line = text_line((metric, *labels))
                whole = os.write(self._fd(), line) == len(line)
                lines = self._new_lines()
                if lines != line:
                    self._read(lines)
                if not whole or lines == line:
                    self._decide(labels, allowed)
        except (OSError, MemoryError):
            self._decide(labels, allowed)
        return labels in allowed

    def close(self) -> None:
        # Without waiting: in a forked child, the thread that held the lock may not exist. Then the descriptor stays open.
        if self._lock.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _fd(self) -> int:
        if self._opened is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._opened.number()

    def _missing(self) -> bool:
        """Return whether the file is still to be opened, or was removed by somebody. Raises OSError for one too long."""
        try:
            status = os.lstat(self._file)
        except FileNotFoundError:
            return True
        if status.st_size > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), self._file)
        opened = self._opened
        return opened is None or opened.identity != (status.st_dev, status.st_ino) or not opened.is_open()

    def _open(self) -> None:
        """Open the file; make it if there is none. Raises OSError."""
        self._let_go()
        if self._path is None:
            return
        try:
            with directory_files.opened(self._path, self._uid) as folder:
                self._opened = Descriptor(directory_files.open_file(NAME, folder, os.O_RDWR | os.O_APPEND))
                self._offset = 0
        except DirectoryError as error:
            raise OSError(errno.EPERM, str(error)) from error

    def _decide(self, labels: tuple[str, ...], allowed: set[tuple[str, ...]]) -> None:
        if len(allowed) < self._limit:
            allowed.add(labels)

    def _new_lines(self) -> bytes:
        """Return the complete lines that this process has not read yet."""
        data = b""
        while more := os.pread(self._fd(), _MOST_BYTES, self._offset + len(data)):
            data += more
            if len(more) < _MOST_BYTES:
                break
        lines = data[: data.rfind(b"\n") + 1]
        self._offset += len(lines)
        return lines

    def _read(self, lines: bytes) -> None:
        for line in lines.splitlines():
            try:
                metric, *labels = json.loads(line)
                allowed = self._allowed.setdefault(metric, set())
                if len(allowed) < self._limit:
                    allowed.add(tuple(labels))
            except (ValueError, TypeError):
                continue  # cut off by a full disk: all readers leave it out
