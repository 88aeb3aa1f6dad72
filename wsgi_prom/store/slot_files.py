"""
The keys and values of a slot, as the process that owns it keeps them: keys grow, and values are mapped. (Texts: text_file.py.)

1. Space is reserved before it is stored to: a store to a page that a full tmpfs cannot give ends the process by SIGBUS.
2. Values are mapped once, as far as they may ever grow, and for as long as the process lives: a row stays where it is.
3. No link is followed, and nothing is written to a file that could belong to somebody else.
"""

from __future__ import annotations

import errno
import os
import time
from array import array
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory, directory_files, file_format, mapping
from wsgi_prom.store.claims import Claim, ClaimedError, Stage
from wsgi_prom.store.descriptor import Descriptor

if TYPE_CHECKING:
    from pathlib import Path


class State(Enum):
    """
    What a check of a slot's files has found.

    REPLACED: a file was removed or replaced, or its keys were written over; the values in memory are right.
    DAMAGED: the value file was cut short, or its header was written over. CLAIMED: by another process.
    """

    GOOD, REPLACED, DAMAGED, CLAIMED = range(4)


class SlotFiles:
    """
    The files of slot *number* in *path*, whose record lock the caller has; made if they are missing.

    *owner* are the uid and gid that they are to belong to, by default the caller's. With *former* whatever is there is set
    aside, and the files begin as a copy of those. Call `map` and then `claim` before anything but `lines` and `close`. Not
    for two threads at once. Raises FormatError for files that cannot be used, ClaimedError, DirectoryError, OSError.
    """

    columns: memoryview[float]
    removed: memoryview[int]  # the word of the header

    def __init__(
        self, path: Path, number: int, owner: tuple[int, int] | None, former: SlotFiles | None = None
    ) -> None:
        self._path = path
        self._number = number
        self._uid = os.geteuid() if owner is None else owner[0]
        self._former = former
        self._files: dict[str, Descriptor] = {}
        self._claim = Claim.new()
        self._claimed = False
        try:
            with directory_files.opened(path, self._uid) as folder:
                if former is not None:
                    directory.set_aside(folder, number, *directory.KINDS)
                for kind in directory.KINDS:
                    self._files[kind] = self._open(kind, folder)
            self._size = os.fstat(self._fd("values")).st_size
            self._new = not self._size
            (self._begin_keys if self._new else self._read_keys)()
            self._keys_time = os.fstat(self._fd("keys")).st_mtime_ns
        except BaseException:
            self.close()
            raise

    @property
    def lines(self) -> bytes:
        """The committed lines of the key file."""
        return bytes(self._keys[len(file_format.keys_header(self.nonce)) :])

    def map(self, end: int) -> None:
        """
        Map the values, which `lines` say go on to the column *end*, and copy those of the former files.

        Raises FormatError if the value file is too short, OSError if there is no space.
        """
        used = 8 * end
        if used > file_format.LARGEST_VALUES or (not self._new and used > self._size):
            raise FormatError(f"{self._size} bytes of values, the keys ask for {used}")
        fd = self._fd("values")
        self._reserved = mapping.pages(max(file_format.INITIAL_SIZE, used))
        self._memory = mapping.mapped(fd, self._reserved)
        self._words = self._memory.cast("Q")
        self.columns = self._memory.cast("d")
        self.removed = self._words[file_format.REMOVED :][:1]
        if self._former is not None:
            values = slice(file_format.FIRST_COLUMN, end)
            self.columns[values] = self._former.columns[values]
            self.removed[0] = self._former.removed[0]
            self._former = None

    def claim(self) -> None:
        """
        Put the claim of this process into the header; the gauges of the former owner must be cleared by then.

        Scrapes show new files from then on, and take the gauges for this process's. Raises ClaimedError.
        """
        if self._new:
            # One store of the whole header: a value file is empty, all zero (and then refused), or right.
            header = self._header()
            self._memory[: len(header)] = header
        else:
            self._words[file_format.CLAIM] = array("Q", self._claim)
            if self._words[file_format.COMMITTED] != len(self._keys):
                raise ClaimedError  # by a living process in another pid namespace
        self._claimed = True

    def tell_stage(self, stage: Stage) -> None:
        self._claim = self._claim._replace(stage=stage)
        if self._claimed:
            self._words[file_format.CLAIM] = array("Q", self._claim)

    def disclaim(self) -> None:
        """Take the claim out of the file, if it is still there: nobody has to wait for the end of this process."""
        with suppress(OSError, FormatError):
            header = os.pread(self._fd("values"), file_format.HEADER.size, 0)
            nonce, committed = file_format.unpack_header(header)
            if Claim.read(header) == self._claim:
                free = file_format.pack_header(nonce, committed)[: 8 * file_format.REMOVED]
                os.pwrite(self._fd("values"), free, 0)

    def append(self, lines: bytes, start: int, end: int) -> None:
        """
        Add *lines* and commit them, with room for values up to the column *end*. Raises OSError.

        They begin at the column *start* with the start time of the row.
        """
        if len(self._keys) + len(lines) > file_format.LARGEST_KEYS or 8 * end > file_format.LARGEST_VALUES:
            raise OSError(errno.EFBIG, "a slot has no space for so many label sets")
        self._check_claim()
        directory_files.write_whole(self._fd("keys"), lines, len(self._keys))
        if 8 * end > self._reserved:
            self._grow(8 * end)
        self.columns[start] = time.time()
        # Again: another process that claims the slot writes its claim first, and then reads what is committed.
        self._check_claim()
        self._keys_time = -1  # asked for at the next check, once for many lines
        self._keys += lines
        if self._claimed:
            self._words[file_format.COMMITTED] = len(self._keys)

    def is_whole(self) -> bool:
        """Return whether the mapped values can be read: nobody has cut the file short."""
        reserved = self._reserved  # before the size: a signal's handler may let the file grow in between
        with suppress(OSError):  # a descriptor that other code has closed, of a removed file, tells nothing
            return os.fstat(self._fd("values")).st_size >= reserved
        return True

    def check(self) -> State:
        """Look at the files: a handful of system calls. Raises MemoryError."""
        if not self.is_whole():
            return State.DAMAGED  # without a look at the mapping, which would end the process
        header, found, keys = b"", b"", 0
        while keys != len(self._keys):  # a signal's handler has added some in between
            keys = len(self._keys)
            header = self._header()
            found = bytes(self._memory[: len(header)])
        if found != header:
            unclaimed = 8 * file_format.CLAIM.start
            return State.CLAIMED if found[:unclaimed] == header[:unclaimed] else State.DAMAGED
        good = all(map(self._in_place, directory.KINDS)) and self._keys_are_good()
        return State.GOOD if good else State.REPLACED

    def set_aside(self) -> None:
        """Rename the files to `.bad`, as far as they are in place. Never raises."""
        kinds = [kind for kind in directory.KINDS if self._in_place(kind)]
        if kinds:
            with suppress(Exception), directory_files.opened(self._path, self._uid) as folder:
                directory.set_aside(folder, self._number, *kinds, directory.TEXTS)

    def withdraw(self) -> None:
        """
        Remove the files that are in place, and make the others unreadable. Raises OSError, DirectoryError.

        Files that were moved away, or that a mount hides, may come back, with 0 for what was moved to a copy: an exporter
        that finds them unreadable keeps what it read last.
        """
        kinds = [kind for kind in directory.KINDS if self._in_place(kind)]
        if kinds:
            with directory_files.opened(self._path, self._uid) as folder:
                for kind in kinds:
                    os.unlink(directory.slot_file(self._number, kind), dir_fd=folder)
        # Not the number of the last removal, which the copy takes along.
        self._memory[: 8 * file_format.REMOVED] = bytes(8 * file_format.REMOVED)

    def close(self) -> None:
        """Close the descriptors; values that are mapped stay valid."""
        for file in self._files.values():
            file.close()

    def _grow(self, size: int) -> None:
        """Reserve room for *size* bytes of values, by half at least. Raises OSError."""
        fd = self._fd("values")
        if os.fstat(fd).st_size < self._reserved:
            # Made longer it would look whole again, with zeros in the place of values.
            raise OSError(errno.EIO, "the value file was cut short")
        # By half: a file of 1,000 label sets had as many unused bytes as values when it was doubled.
        grown = mapping.pages(max(self._reserved * 3 // 2, size))
        os.posix_fallocate(fd, self._reserved, grown - self._reserved)
        self._reserved = grown

    def _check_claim(self) -> None:
        if self._claimed and tuple(self._words[file_format.CLAIM]) != self._claim:
            raise OSError(errno.EBUSY, "another process has claimed the slot")

    def _keys_are_good(self) -> bool:
        # Only this process writes to it: no need to read what has the time of its last writing.
        with suppress(OSError):  # no descriptor is left to open the file again: nothing is known
            written = os.fstat(self._fd("keys")).st_mtime_ns
            keys = bytes(self._keys)
            if written != self._keys_time and os.pread(self._fd("keys"), len(keys), 0) != keys:
                return False
            self._keys_time = written
        return True

    def _in_place(self, kind: str) -> bool:
        """Return whether the file of *kind* is the one that its name leads to."""
        try:
            status = (self._path / directory.slot_file(self._number, kind)).lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._files[kind].identity

    def _fd(self, kind: str) -> int:
        """Return a descriptor for immediate use; opened again if other code has closed it. Raises OSError."""
        file = self._files[kind]
        if not file.is_open() and self._in_place(kind):
            with directory_files.opened(self._path, self._uid) as folder:
                again = self._open(kind, folder)
            if again.identity == file.identity:
                file = self._files[kind] = again
            else:
                again.close()
        return file.number()

    def _open(self, kind: str, folder: int) -> Descriptor:
        name = directory.slot_file(self._number, kind)
        try:
            return Descriptor(directory_files.open_file(name, folder, os.O_RDWR))
        except OSError as error:
            if (
                isinstance(error, directory_files.NotOwnFileError)
                or error.errno in directory_files.NOT_A_FILE
            ):
                raise FormatError(f"{self._path / name} cannot be used: {error.strerror}") from error
            raise

    def _begin_keys(self) -> None:
        if self._former is None:
            self.nonce = int.from_bytes(os.urandom(8), "big")
            self._keys = bytearray(file_format.keys_header(self.nonce))
        else:
            # The same nonce: an exporter takes the copy for the slot that it knows, and counts nothing twice.
            self.nonce, self._keys = self._former.nonce, bytearray(self._former._keys)
        os.ftruncate(self._fd("keys"), 0)
        directory_files.write_whole(self._fd("keys"), self._keys, 0)

    def _read_keys(self) -> None:
        header = os.pread(self._fd("values"), file_format.HEADER.size, 0)
        self.nonce, committed = file_format.unpack_header(header)
        # First: a living owner looks after its files itself.
        if Claim.read(header).lives():
            raise ClaimedError
        # Only what is committed, and not as much memory as a damaged header asks for.
        keys = os.pread(self._fd("keys"), min(committed, file_format.LARGEST_KEYS), 0)
        file_format.check_keys(keys, self.nonce, committed)
        self._keys = bytearray(keys)

    def _header(self) -> bytes:
        """Return what only this process writes of the header."""
        header = file_format.pack_header(self.nonce, len(self._keys), self._claim)
        return header[: 8 * file_format.REMOVED]
