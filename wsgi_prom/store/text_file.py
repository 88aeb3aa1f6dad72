"""
The file of texts of a slot, as the process that owns the slot keeps it.

1. It is opened, or made, at the first text: a process that records none has nothing to do with it.
2. It is written to and not mapped: nobody who cuts it short ends the process, and a full disk is an error.
3. A file that cannot be used is set aside. What is in a good one, of earlier owners of the slot, stays.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory, directory_files, mapping, text_format
from wsgi_prom.store.descriptor import Descriptor
from wsgi_prom.store.text_format import Text

if TYPE_CHECKING:
    from pathlib import Path

_NOTHING: Final = Text(0.0, 0.0, b"")


class TextFile:
    """
    The texts of slot *number* in *path*, whose values have *nonce*. *uid* is the directory's user.

    Not for two threads at once, nor for a signal handler in the middle of `write`.
    """

    def __init__(self, path: Path, number: int, uid: int, nonce: int) -> None:
        self._path = path
        self._number = number
        self._uid = uid
        self._nonce = nonce
        self._file: Descriptor | None = None
        # By column, offset and capacity; by capacity, the offsets of records that are free.
        self._records: dict[int, tuple[int, int]] = {}
        # The text that this process has written last for each column: it is not written again.
        self._written: dict[int, Text] = {}
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._end = self._reserved = 0

    def write(self, column: int, text: Text) -> bool:
        """
        Have *text* for *column* of the slot, counted from its first. Raises OSError, DirectoryError.

        The text is at most LONGEST_TEXT long. Returns False if the file has no room for it; then the column has none.
        """
        fd = self._opened()
        if self._written.get(column) is text:
            return True
        former = self._records.get(column)
        capacity = text_format.capacity_of(len(text.text))
        if former is not None and former[1] >= capacity:
            _write(fd, *former, column, text)
        else:
            offset = self._room(fd, capacity)
            if offset is None:
                if former is not None:
                    _write(fd, *former, column, text._replace(text=b""))
                return False
            _write(fd, offset, capacity, column, text)
            # Now: an exception before this, of a signal handler perhaps, leaves all as it was.
            self._records[column] = offset, capacity
            self._end = max(self._end, offset + capacity)
            if former is not None:
                _write(fd, *former, text_format.FREE, _NOTHING)
                self._free[former[1]].append(former[0])
        self._written[column] = text
        return True

    def check(self) -> bool:
        """
        Return whether the file is as this process left it, if it has written to it; if not, the next `write` opens it anew.

        Three system calls. The caller then writes again what it has.
        """
        if self._file is None:
            return True
        try:
            status = os.lstat(self._path / directory.slot_file(self._number, directory.TEXTS))
            if self._file.identity == (status.st_dev, status.st_ino) and status.st_size >= self._reserved:
                head = os.pread(self._file.number(), text_format.HEADER_SIZE, 0)
                text_format.check_header(head, self._nonce)
                return True
        except (OSError, FormatError):
            pass
        self.close()
        return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> int:
        """Return a descriptor for immediate use."""
        if self._file is not None:
            try:
                return self._file.number()
            except OSError:  # other code has closed it
                self._file = None
        with directory_files.opened(self._path, self._uid) as folder:
            try:
                file = self._open(folder)
            except (FormatError, directory_files.NotOwnFileError) as error:
                if not directory.set_aside(folder, self._number, directory.TEXTS):
                    raise OSError(errno.EEXIST, f"its texts cannot be used: {error}") from error
                file = self._open(folder)
        self._file = file
        return file.number()

    def _open(self, folder: int) -> Descriptor:
        """Open the file in *folder*, and find its records. Raises FormatError, OSError."""
        name = directory.slot_file(self._number, directory.TEXTS)
        try:
            file = Descriptor(directory_files.open_file(name, folder, os.O_RDWR))
        except OSError as error:
            if error.errno in directory_files.NOT_A_FILE:
                raise FormatError(f"{name} is no file") from error
            raise
        try:
            self._load(file.number())
        except BaseException:
            file.close()
            raise
        return file

    def _load(self, fd: int) -> None:
        self._records, self._written, self._free = {}, {}, defaultdict(list)
        self._end = text_format.HEADER_SIZE
        self._reserved = os.fstat(fd).st_size
        if self._reserved > text_format.LARGEST_FILE:
            raise FormatError(f"{self._reserved} bytes of texts")
        data = os.pread(fd, self._reserved, 0)
        if not data:
            directory_files.write_whole(fd, text_format.pack_header(self._nonce), 0)
            self._reserved = text_format.HEADER_SIZE
            return
        text_format.check_header(data, self._nonce)
        times: dict[int, float] = {}
        for offset, capacity, column, text in text_format.records(data):
            self._end = offset + capacity
            if text is None or column == text_format.FREE or text.time < times.get(column, text.time):
                self._free[capacity].append(offset)
                continue
            if column in times:
                former = self._records[column]
                self._free[former[1]].append(former[0])
            times[column], self._records[column] = text.time, (offset, capacity)

    def _room(self, fd: int, capacity: int) -> int | None:
        """Return the offset of a free record, whose space is reserved; None if there is none. Raises OSError."""
        if self._free[capacity]:
            return self._free[capacity].pop()
        end = self._end + capacity
        if end > text_format.LARGEST_FILE:
            return None
        if end > self._reserved:
            grown = min(mapping.pages(max(self._reserved * 3 // 2, end)), text_format.LARGEST_FILE)
            os.posix_fallocate(fd, self._reserved, grown - self._reserved)
            self._reserved = grown
        return self._end


def _write(fd: int, offset: int, capacity: int, column: int, text: Text) -> None:
    directory_files.write_whole(fd, text_format.pack(capacity, column, text), offset)
