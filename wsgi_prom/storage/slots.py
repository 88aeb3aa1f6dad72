"""
A slot: where one process keeps its values. In a pair of shared files that it holds, or in its own memory.
"""

# Rule 1: only the holder of a slot's lock writes to its files.
# Rule 2: space is reserved before it is mapped: a store to a page that a full tmpfs cannot give is SIGBUS.
# Rule 3: a mapping is never moved. A file that grows is mapped once more, and both mappings are the same pages, so
#         whoever holds a view and an index may keep them.

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
import threading
from array import array
from typing import TYPE_CHECKING, Final, Protocol

from wsgi_prom.errors import FormatError
from wsgi_prom.storage import directory, format, locks  # noqa: A004 - the module of that name is the room

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.storage.format import Schema
    from wsgi_prom.storage.locks import Locks

    class Columns(Protocol):
        """A memoryview or an array of doubles."""

        def __getitem__(self, index: int, /) -> float: ...
        def __setitem__(self, index: int, value: float, /) -> None: ...


# Far above any pool of workers; the lock file is as long as its highest locked byte only in the kernel's books.
MAX_SLOTS: Final = 65536
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NOT_A_FILE: Final = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})


class Slot(Protocol):
    """Where a process records: files below *path*, which are *owner*'s where that is not the process's user."""

    path: Path | None
    owner: tuple[int, int] | None

    def block(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        """
        Return the columns of a block, made at the first call, and the index of its first one.

        They are valid for as long as the process lives. Raises OSError when there is no space for it.
        """


class MemorySlot:
    """A slot that only its own process sees: before a directory is known, and where there is none."""

    path: Path | None = None
    owner: tuple[int, int] | None = None

    def __init__(self) -> None:
        self._blocks: dict[tuple[Schema, tuple[str, ...]], array[float]] = {}

    def block(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        fresh = array("d", bytes(8 * schema.width))
        return self._blocks.setdefault((schema, labelvalues), fresh), 0

    def blocks(self) -> list[tuple[Schema, tuple[str, ...], list[float]]]:
        """Return what has been recorded, for a collector in the same process."""
        return [(schema, values, list(columns)) for (schema, values), columns in list(self._blocks.items())]


class SlotFile:
    """
    A slot in the shared directory, held until the process ends. Get it by `claim`, after the fork.

    Threads may ask for blocks at the same time.
    """

    def __init__(
        self, path: Path, lock_file: Locks, number: int, owner: tuple[int, int] | None = None
    ) -> None:
        self.number = number
        self.path: Path | None = path
        self.owner = owner
        self._locks = lock_file
        # Re-entrant: a signal handler or a finalizer may run in the middle of `block` and ask for one itself.
        self._lock = threading.RLock()
        self._appending = False
        self._schemas: dict[Schema, int] = {}
        self._blocks: dict[tuple[int, tuple[str, ...]], int] = {}
        self._detached = MemorySlot()
        self._end = format.FIRST_COLUMN
        self._files = contextlib.ExitStack()
        try:
            self._keys_fd = self._open(path / f"wsgi_prom.{number}.keys")
            self._values_fd = self._open(path / f"wsgi_prom.{number}.values")
            self._load()
        except BaseException:
            self._files.close()
            raise

    @classmethod
    def claim(cls, path: Path, owner: tuple[int, int] | None = None) -> SlotFile:
        """
        Take the lowest slot of *path* that no living process holds, and go on in its files.

        *owner* are the uid and gid of the directory's user, where that is not the caller but whom root will be. Files
        that cannot be read are kept aside under the name `wsgi_prom.N.*.bad` and the slot starts anew. Raises OSError,
        DirectoryError.
        """
        lock_file = directory.prepare(path, owner=owner)
        number = next(n for n in range(MAX_SLOTS) if lock_file.acquire(locks.FIRST_SLOT + n))
        try:
            try:
                return cls(path, lock_file, number, owner)
            except FormatError:
                _keep_aside(path, number)
                return cls(path, lock_file, number, owner)
        except BaseException:
            lock_file.release(locks.FIRST_SLOT + number)
            raise

    def block(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        with self._lock:
            number = self._schemas.get(schema)
            if number is not None:
                first = self._blocks.get((number, labelvalues))
                if first is not None:
                    return self._columns, first
            if self._appending:
                # A line within a line would destroy both. What is recorded here stays in this process.
                return self._detached.block(schema, labelvalues)
            self._appending = True
            try:
                return self._columns_of_new(schema, number, labelvalues)
            finally:
                self._appending = False

    def close(self) -> None:
        """Let go of the files of a slot that was inherited through a fork. Its holder is not affected."""
        self._files.close()

    def _columns_of_new(
        self, schema: Schema, number: int | None, labelvalues: tuple[str, ...]
    ) -> tuple[Columns, int]:
        lines = b""
        if number is None:
            number = len(self._schemas)
            lines = schema.line()
        lines += format.block_line(number, labelvalues)
        if os.pwrite(self._keys_fd, lines, self._committed) != len(lines):
            # A disk that is nearly full takes a part of it, without an error.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        first, end = self._end, self._end + schema.width
        if end > len(self._columns):
            self._map(max(2 * self._size, 8 * end))
        self._committed += len(lines)
        self._header[format.COMMITTED] = self._committed
        self._end = end
        self._schemas[schema] = number
        self._blocks[number, labelvalues] = first
        return self._columns, first

    def _open(self, path: Path) -> int:
        try:
            fd = os.open(path, _FLAGS, 0o600)
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                raise FormatError(f"{path} is not a plain file: {error.strerror}") from error
            raise
        self._files.callback(os.close, fd)
        found = os.fstat(fd)
        uid = os.geteuid() if self.owner is None else self.owner[0]
        # A hard link would have us write to a file that somebody else chose, or give it away.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_uid not in {uid, os.geteuid()}:
            raise FormatError(f"{path} is not a plain file of this user's")
        if found.st_uid != uid:
            os.fchown(fd, *(self.owner or (uid, -1)))
        return fd

    def _load(self) -> None:
        size = os.fstat(self._values_fd).st_size
        if size == 0:
            nonce = secrets.randbits(64)
            os.ftruncate(self._keys_fd, 0)
            os.pwrite(self._keys_fd, format.keys_header(nonce), 0)
            self._map(format.INITIAL_SIZE)
            # One store of the whole header: a value file is empty, all zero (and then refused), or right.
            self._memory[: format.HEADER.size] = format.pack_header(nonce)
            self._committed = self._header[format.COMMITTED]
            return
        nonce, self._committed = format.unpack_header(os.pread(self._values_fd, format.HEADER.size, 0))
        keys = os.pread(self._keys_fd, os.fstat(self._keys_fd).st_size, 0)
        format.check_keys(keys, nonce, self._committed)
        schemas: list[Schema] = []
        blocks = format.parse_lines(keys[len(format.keys_header(nonce)) : self._committed], schemas)
        for number, schema in enumerate(schemas):
            self._schemas.setdefault(schema, number)
        for schema, labelvalues in blocks:
            self._blocks.setdefault((self._schemas[schema], labelvalues), self._end)
            self._end += schema.width
        if size < 8 * self._end:
            raise FormatError(f"{size} bytes of values, the keys ask for {8 * self._end}")
        self._map(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._start_anew(blocks)

    def _start_anew(self, blocks: list[tuple[Schema, tuple[str, ...]]]) -> None:
        first = format.FIRST_COLUMN
        for schema, _ in blocks:
            if any(metric.mode in format.PER_PROCESS_MODES for metric in schema.metrics):
                for index in range(first, first + schema.width):
                    self._columns[index] = 0.0
            first += schema.width

    def _map(self, size: int) -> None:
        os.posix_fallocate(self._values_fd, 0, size)
        memory = mmap.mmap(self._values_fd, size)
        self._size = size
        self._memory = memoryview(memory)
        self._header = self._memory.cast("Q")
        self._columns = self._memory.cast("d")


def _keep_aside(path: Path, number: int) -> None:
    for suffix in ("values", "keys"):
        bad = path / f"wsgi_prom.{number}.{suffix}"
        aside = bad.with_name(f"{bad.name}.bad")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            aside.rmdir()
        with contextlib.suppress(FileNotFoundError):
            bad.rename(aside)
