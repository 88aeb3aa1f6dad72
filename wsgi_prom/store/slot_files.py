"""
The pair of files of a slot, as the process that owns it keeps them: keys that grow, and values that are mapped.
"""

# Rule 1: files are made again only from memory that is known to be good, byte for byte and with the same nonce: a
#         scrape cannot tell them from those that were there before, and counts nothing twice.
# Rule 2: no link is followed, and nothing is written to a file that could be somebody else's.

from __future__ import annotations

import errno
import mmap
import os
import time
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.store import directory, directory_files, file_format
from wsgi_prom.store.claims import Claim, ClaimedError
from wsgi_prom.store.descriptor import Descriptor
from wsgi_prom.store.mapping import Mapping

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NOT_A_FILE: Final = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})
# Directories are cleaned by an age of days (tmpfiles.d(5)).
_TOUCH_SECONDS: Final = 3600


class SlotFiles:
    """
    The files of slot *number* in *path*, whose lock the caller has; made if they are missing.

    *owner* are the uid and gid that they are to belong to, by default the caller's. Call `map` and then `claim` before
    anything but `lines` and `close`. Not for two threads at once. Raises FormatError for what cannot be gone on with,
    ClaimedError, DirectoryError, OSError.
    """

    mapping: Mapping
    # Whether somebody else has claimed the slot.
    taken = False

    def __init__(self, path: Path, number: int, owner: tuple[int, int] | None) -> None:
        self._path = path
        self._number = number
        self._uid = os.geteuid() if owner is None else owner[0]
        self._touched = time.monotonic()
        self._files: dict[str, Descriptor] = {}
        self._claim = Claim.new()
        try:
            with directory_files.opened(path, self._uid) as folder:
                for kind in directory.KINDS:
                    self._files[kind] = self._open(kind, folder)
            self._size = os.fstat(self._fd("values")).st_size
            self._new = not self._size
            if not self._new:
                self._read_keys()
            else:
                self._size = file_format.INITIAL_SIZE
                self._nonce = int.from_bytes(os.urandom(8), "big")
                self._keys = bytearray(file_format.keys_header(self._nonce))
                os.ftruncate(self._fd("keys"), 0)
                _write(self._fd("keys"), self._keys, 0)
        except BaseException:
            self._close_files()
            raise
        self._keys_time = os.fstat(self._fd("keys")).st_mtime_ns

    @property
    def lines(self) -> bytes:
        """The committed lines of the key file."""
        return bytes(self._keys[len(file_format.keys_header(self._nonce)) :])

    def map(self, end: int, on_loss: Callable[[], None]) -> None:
        """
        Map the values, which `lines` say go on to the column *end*.

        *on_loss* is called, perhaps in a signal's handler, when they turn out to be cut short. Raises FormatError if
        they are already, OSError.
        """
        if not 8 * end <= min(self._size, file_format.LARGEST_VALUES):
            raise FormatError(f"{self._size} bytes of values, the keys ask for {8 * end}")
        # As it grows, and not all of a file that somebody has made as long as a disk.
        size = min(self._size, max(file_format.INITIAL_SIZE, 12 * end))
        self.mapping = Mapping(self._fd("values"), _pages(size), on_loss)
        if self._new:
            # One store of the whole header: a value file is empty, all zero (and then refused), or right.
            self.mapping.memory[: file_format.HEADER.size] = self._header()

    def claim(self) -> None:
        """
        Put the claim of this process into the header, after `map` and after the former owner's gauges were cleared.

        A scrape takes the gauges for this process's from then on. Raises ClaimedError.
        """
        self.mapping.words[file_format.CLAIM] = array("Q", self._claim)
        if self.mapping.words[file_format.COMMITTED] != len(self._keys):
            raise ClaimedError  # by somebody who lives, and cannot be seen

    def owned(self) -> bool:
        """Return whether the claim in the mapped header is the one that was made here."""
        return tuple(self.mapping.words[file_format.CLAIM]) == self._claim

    def disclaim(self) -> None:
        """Take the claim out of the file, if it is still there: nobody else has to wait for this process's end."""
        with suppress(OSError, FormatError):
            fd = self._fd("values")
            header = os.pread(fd, file_format.HEADER.size, 0)
            nonce, committed = file_format.unpack_header(header)
            if Claim.read(header) == self._claim:
                os.pwrite(fd, file_format.pack_header(nonce, committed), 0)

    def append(self, lines: bytes, end: int) -> None:
        """Add *lines* and commit them, with room for values up to the column *end*. Raises OSError."""
        if len(self._keys) + len(lines) > file_format.LARGEST_KEYS or 8 * end > file_format.LARGEST_VALUES:
            raise OSError(errno.EFBIG, "a slot has no space for so many label sets")
        self._must_own()
        _write(self._fd("keys"), lines, len(self._keys))
        if 8 * end > self.mapping.size:
            fd = self._fd("values")
            if os.fstat(fd).st_size < self.mapping.size:
                # Made longer it would be whole again, with zeros in the place of values.
                self.mapping.lose()
                raise OSError(errno.EIO, "the value file was cut short")
            # By half: a file of 1,000 label sets had as many bytes that were not used as it had of values when it was
            # doubled.
            self.mapping.grow(fd, _pages(max(self.mapping.size * 3 // 2, 8 * end)))
        self._must_own()  # whoever claims it reads what is committed after its claim is there
        self._keys_time = -1  # to be asked for when somebody looks, once for many lines
        self._keys += lines
        self.mapping.words[file_format.COMMITTED] = len(self._keys)

    def values_intact(self) -> bool:
        """Return whether the value file is as long as it was made, and its header as it was written."""
        size, keys = self.mapping.size, 0
        if os.fstat(self._fd("values")).st_size < size:
            return False
        found, header = b"", b""
        while keys != len(self._keys):  # a signal's handler has added some in the middle of it
            keys = len(self._keys)
            header = self._header()
            found = bytes(self.mapping.memory[: len(header)])
        # All but the claim, which comes last.
        self.taken = (
            found != header and found[: 8 * file_format.CLAIM.start] == header[: 8 * file_format.CLAIM.start]
        )
        return found == header and not self.mapping.lost

    def keys_intact(self) -> bool:
        """Return whether the key file is in its place, and as it was written."""
        if not self.in_place("keys"):
            return False
        # Only this process writes to it: no need to read what has the time of its last writing.
        written = os.fstat(self._fd("keys")).st_mtime_ns
        if written != self._keys_time:
            keys = bytes(self._keys)
            if os.pread(self._fd("keys"), len(keys), 0) != keys:
                return False
            self._keys_time = written
        return True

    def in_place(self, kind: str) -> bool:
        """Return whether the file of *kind* is the one that its name leads to."""
        try:
            found = (self._path / directory.slot_file(self._number, kind)).lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._files[kind].identity

    def copied(self) -> bool:
        """Return whether the file in the place of the values is an older one of this very slot's, which was put back."""
        try:
            with directory_files.opened(self._path, self._uid) as folder:
                name = directory.slot_file(self._number, "values")
                fd = directory_files.open_file(name, folder, os.O_RDONLY, create=False)
        except (OSError, DirectoryError):
            return False
        try:
            return file_format.unpack_header(os.pread(fd, file_format.HEADER.size, 0))[0] == self._nonce
        except (OSError, FormatError):
            return False
        finally:
            os.close(fd)

    def remake_keys(self) -> None:
        """Set aside what is in the place of the key file, and write it anew. Raises OSError, DirectoryError."""
        with directory_files.opened(self._path, self._uid) as folder:
            directory.keep_aside(folder, self._number, "keys")
            fresh = self._open("keys", folder)
        self._files["keys"].close()
        self._files["keys"] = fresh
        _write(fresh.number(), self._keys, 0)
        self._keys_time = os.fstat(fresh.number()).st_mtime_ns

    def remake(self, number: int) -> None:
        """
        Set aside what is in the place of the files of slot *number*, and write both there. Raises OSError.

        Nobody may store to the mapping meanwhile.
        """
        self._number = number
        if not self.keys_intact():
            self.remake_keys()
        with directory_files.opened(self._path, self._uid) as folder:
            directory.keep_aside(folder, number, "values")
            fresh = self._open("values", folder)
        try:
            self.mapping.move_to(fresh.number())
        except BaseException:
            fresh.close()
            raise
        self._files["values"].close()
        self._files["values"] = fresh

    def touch(self) -> bool:
        """
        Tell what cleans directories by age that the files are in use, now and then; return whether it was done.

        A store to mapped memory does not tell the file system. Raises OSError.
        """
        if time.monotonic() - self._touched < _TOUCH_SECONDS:
            return False
        for kind in directory.KINDS:
            os.utime(self._fd(kind))
        self._keys_time = os.fstat(self._fd("keys")).st_mtime_ns
        self._touched = time.monotonic()
        return True

    def close(self) -> None:
        """Close the files. Views of the mapping stay valid for as long as anybody has them."""
        if hasattr(self, "mapping"):
            self.mapping.close()
        self._close_files()

    def _fd(self, kind: str) -> int:
        """Return a descriptor for a use right away. Raises OSError where it was closed, and the file has another name."""
        file = self._files[kind]
        if not file.is_open() and self.in_place(kind):
            with directory_files.opened(self._path, self._uid) as folder:
                again = self._open(kind, folder)
            if again.identity == file.identity:
                file = self._files[kind] = again
            else:
                again.close()
        return file.number()

    def _must_own(self) -> None:
        if not self.owned():
            self.taken = True
            self.mapping.lose()
            raise OSError(errno.EBUSY, "another process has claimed the slot")

    def _open(self, kind: str, folder: int) -> Descriptor:
        name = directory.slot_file(self._number, kind)
        try:
            return Descriptor(directory_files.open_file(name, folder, os.O_RDWR))
        except OSError as error:
            if isinstance(error, directory_files.NotOwnFileError) or error.errno in _NOT_A_FILE:
                raise FormatError(f"{self._path / name} cannot be used: {error.strerror}") from error
            raise

    def _read_keys(self) -> None:
        header = os.pread(self._fd("values"), file_format.HEADER.size, 0)
        self._nonce, committed = file_format.unpack_header(header)
        # First: if it lives, it sees to its files itself.
        if Claim.read(header).lives():
            raise ClaimedError
        # Only what is committed, and not as much memory as a damaged header asks for.
        keys = os.pread(self._fd("keys"), min(committed, file_format.LARGEST_KEYS), 0)
        file_format.check_keys(keys, self._nonce, committed)
        self._keys = bytearray(keys)

    def _header(self) -> bytes:
        return file_format.pack_header(self._nonce, len(self._keys), self._claim)

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _write(fd: int, data: bytes | bytearray, offset: int) -> None:
    if os.pwrite(fd, data, offset) != len(data):
        # A disk that is nearly full takes a part of it, without an error.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
