"""
A slot: where one process keeps its values. In a pair of shared files that it holds, or in its own memory.
"""

# Rule 1: only the holder of a slot's lock writes to its files.
# Rule 2: what has no space in the files is kept in memory until it has: to ask for a row does not fail.

from __future__ import annotations

import errno
import os
import threading
from array import array
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory, directory_files, file_format, locks
from wsgi_prom.store.claims import ClaimedError
from wsgi_prom.store.slot_files import SlotFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wsgi_prom.store.file_format import Schema
    from wsgi_prom.store.locks import Locks

    class Columns(Protocol):
        """A memoryview or an array of doubles."""

        def __getitem__(self, index: int, /) -> float: ...
        def __setitem__(self, index: int, value: float, /) -> None: ...


# Far above any pool of workers; the lock file is as long as its highest locked byte only in the kernel's books.
MAX_SLOTS: Final = 65536
# How many slots that cannot be opened are passed by.
_MOST_LEFT: Final = 16


class Slot(Protocol):
    """Where a process records: files below *path*, which are *owner*'s where that is not the process's user."""

    @property
    def path(self) -> Path | None: ...

    @property
    def owner(self) -> tuple[int, int] | None: ...

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        """
        Return the columns of a row, made at the first call, and the index of its first one.

        They are valid for as long as the process lives.
        """


class MemorySlot:
    """A slot that only its own process sees: before a directory is known, and where there is none."""

    path: Path | None = None
    owner: tuple[int, int] | None = None

    def __init__(self) -> None:
        self._rows: dict[tuple[Schema, tuple[str, ...]], array[float]] = {}

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        fresh = array("d", bytes(8 * schema.width))
        return self._rows.setdefault((schema, labelvalues), fresh), 0

    def rows(self) -> list[tuple[Schema, tuple[str, ...], list[float]]]:
        """Return what has been recorded, for a collector in the same process."""
        return [(schema, values, list(columns)) for (schema, values), columns in list(self._rows.items())]


class SlotFile:
    """
    A slot in the shared directory, held until the process ends. Get it by `claim`, after the fork.

    Threads may ask for rows at the same time. *notice* is called, perhaps in a signal's handler, when the slot wants
    to be looked after: see `lost`, `unplaced` and `repair`.
    """

    def __init__(
        self,
        path: Path,
        lock_file: Locks,
        number: int,
        owner: tuple[int, int] | None = None,
        notice: Callable[[], None] = lambda: None,
    ) -> None:
        self.number = number
        self.path: Path = path
        self.owner = owner
        # Why some rows are kept in memory, None if there are none.
        self.unplaced: OSError | None = None
        self._locks = lock_file
        self._notice = notice
        # Re-entrant: a signal handler or a finalizer may run in the middle of `row` and ask for one itself.
        self._lock = threading.RLock()
        self._appending = False
        self._schemas: dict[Schema, int] = {}
        self._rows: dict[tuple[int, tuple[str, ...]], int] = {}
        self._detached = MemorySlot()
        self._end = file_format.FIRST_COLUMN
        self._files = SlotFiles(path, number, owner)
        try:
            self._load()
        except BaseException:
            self._files.disclaim()
            self._files.close()
            raise

    @classmethod
    def claim(
        cls, path: Path, owner: tuple[int, int] | None = None, notice: Callable[[], None] = lambda: None
    ) -> SlotFile:
        """
        Take the lowest slot of *path* that nobody holds who lives, and go on in its files.

        *owner* are the uid and gid of the directory's user, where that is not the caller but whom root will be. Files
        that cannot be read are kept aside under the name `wsgi_prom.N.*.bad` and the slot starts anew; a slot whose files
        this process may not read, or has no memory for, is left as it is. Raises OSError, DirectoryError, and the error
        of such a slot where there are too many.
        """
        lock_file = directory.prepare(path, owner=owner)
        left = 0
        for number in range(MAX_SLOTS):
            byte = locks.FIRST_SLOT + number
            if not lock_file.acquire(byte):
                continue
            try:
                slot = cls._open(path, lock_file, number, owner, notice)
            except BaseException as error:
                lock_file.release(byte)
                left += 1
                if left > _MOST_LEFT or not _of_one_slot(error):
                    raise
                continue
            if slot is not None:
                return slot
            lock_file.release(byte)
        raise OSError(errno.ENOSPC, f"all slots of {path} are taken")

    @classmethod
    def _open(cls, path: Path, lock_file: Locks, number: int, *options: Any) -> SlotFile | None:
        try:
            return cls(path, lock_file, number, *options)
        except ClaimedError:
            return None
        except FormatError:
            with directory_files.opened(path) as folder:
                aside = lock_file.lies_in(folder) and directory.keep_aside(folder, number)
            return cls(path, lock_file, number, *options) if aside else None

    @property
    def lost(self) -> bool:
        """Whether the values are gone, or somebody else's: another slot is to be claimed, and this one left."""
        return self._files.mapping.lost

    @property
    def taken(self) -> bool:
        """Whether somebody else has claimed the slot, where what was recorded until this was noticed stays."""
        return self._files.taken

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        with self._lock:
            number = self._schemas.get(schema)
            if number is not None:
                first = self._rows.get((number, labelvalues))
                if first is not None:
                    return self._files.mapping.columns, first
            # Once there was no space the current slot tries again, once a second, and not each new label set.
            if self.unplaced is None and not self.lost:
                # A line within a line would destroy both.
                if not self._appending:
                    self._appending = True
                    try:
                        return self._append(schema, number, labelvalues)
                    except OSError as error:
                        self.unplaced = error
                    finally:
                        self._appending = False
                self._notice()
            return self._detached.row(schema, labelvalues)

    def leave(self) -> None:
        """Let go of the files: of a slot that is lost, or that was inherited through a fork and has another holder."""
        byte = locks.FIRST_SLOT + self.number
        if self._locks.mine(byte):  # and not in a forked child
            self._files.disclaim()
            self._locks.release(byte)
        self._files.close()

    def sound(self) -> bool:
        """
        Return whether the files are there, and as this process left them. If not, it is `lost`, or to `repair`.

        A handful of system calls. Raises nothing.
        """
        with self._lock:
            if self.lost:
                return False
            if self._appending:  # a signal's handler, in the middle of it: what it sees is half done
                return True
            try:
                if not self._files.values_intact():
                    self._files.mapping.give_up()
                    return False
                if self._files.touch():
                    self._locks.touch()
                # Whoever has it, if it was lost, leaves it again.
                self._locks.acquire(locks.FIRST_SLOT + self.number)
                return (
                    self._locks.current(self.path)
                    and self._files.in_place("values")
                    and self._files.keys_intact()
                )
            except Exception:  # no memory to read them, perhaps
                return False

    def repair(self, lock: AbstractContextManager[object] | None = None) -> None:
        """
        Make the files again that were removed, replaced, or written to by somebody else. The values must be good.

        *lock* is what keeps others from storing to the slot meanwhile, and is taken here: after the slot's own, as by who
        records in the middle of `row`. Afterwards it may be `lost`, namely to another process. Raises OSError,
        DirectoryError.
        """
        with self._lock, lock or nullcontext():
            lock_file = directory.prepare(self.path, owner=self.owner)
            byte = locks.FIRST_SLOT + self.number
            kept = lock_file is self._locks and lock_file.holder(byte) == os.getpid()
            held = lock_file.acquire(byte)
            if self._files.in_place("values"):
                # Who has the lock, if it is not this process, finds its claim there, and leaves it again.
                self._locks = lock_file
                if not self._files.keys_intact():
                    self._files.remake_keys()
                return
            if not kept and not (held and (self._vacant(self.number) or self._files.copied())):
                # In a new directory, or without the lock, that is the slot of another process, which may have ended meanwhile.
                if held:
                    lock_file.release(byte)
                self.number = next(
                    n for n in range(MAX_SLOTS)
                    if self._vacant(n) and lock_file.acquire(locks.FIRST_SLOT + n)
                )  # fmt: skip
            self._locks = lock_file
            self._files.remake(self.number)

    def _vacant(self, number: int) -> bool:
        return not any(
            os.path.lexists(self.path / directory.slot_file(number, kind)) for kind in directory.KINDS
        )

    def _append(
        self, schema: Schema, number: int | None, labelvalues: tuple[str, ...]
    ) -> tuple[Columns, int]:
        lines = b""
        if number is None:
            number = len(self._schemas)
            lines = schema.line()
        lines += file_format.row_line(number, labelvalues)
        first, end = self._end, self._end + schema.width
        self._files.append(lines, end)
        self._end = end
        self._schemas[schema] = number
        self._rows[number, labelvalues] = first
        return self._files.mapping.columns, first

    def _load(self) -> None:
        schemas: list[Schema] = []
        rows = file_format.parse_lines(self._files.lines, schemas)
        # By identity: the hash of a schema takes 2 us, which is most of what taking over a thousand label sets would be.
        numbers = {id(schema): self._schemas.setdefault(schema, n) for n, schema in enumerate(schemas)}
        modes = file_format.PER_PROCESS_MODES
        anew = {id(schema) for schema in schemas if any(metric.mode in modes for metric in schema.metrics)}
        cleared: list[slice] = []
        for schema, labelvalues in rows:
            self._rows.setdefault((numbers[id(schema)], labelvalues), self._end)
            if id(schema) in anew:
                cleared.append(slice(8 * self._end, 8 * (self._end + schema.width)))
            self._end += schema.width
        self._files.map(self._end, self._notice)
        for gauge in cleared:
            self._files.mapping.memory[gauge] = bytes(gauge.stop - gauge.start)
        self._files.claim()


def _of_one_slot(error: BaseException) -> bool:
    """Return whether *error* may be of the files of one slot: no full disk, no lack of descriptors."""
    if isinstance(error, OSError):
        return error.errno in {errno.EACCES, errno.EPERM, errno.EIO}
    return isinstance(error, Exception)
