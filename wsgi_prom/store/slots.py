"""
A slot: where one process keeps its values, in shared files that it has claimed, or in its own memory.

1. Only the holder of a slot's record lock writes to its files.
2. Label sets that find no space in the files are kept in memory until they do: to ask for a row never fails.
"""

from __future__ import annotations

import os
import time
from array import array
from itertools import chain
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.store import directory, directory_files, file_format, locks
from wsgi_prom.store.claims import ClaimedError
from wsgi_prom.store.memory_slot import MemorySlot
from wsgi_prom.store.removal import new_number, removed_now
from wsgi_prom.store.slot_files import SlotFiles, State
from wsgi_prom.store.slot_rows import SlotRows
from wsgi_prom.store.text_file import TextFile
from wsgi_prom.store.usable_slot import first_usable, nonce_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.store.claims import Stage
    from wsgi_prom.store.locks import LockFile
    from wsgi_prom.store.memory_slot import Columns
    from wsgi_prom.store.removal import Removal
    from wsgi_prom.store.schemas import Schema
    from wsgi_prom.store.text_format import Text


# Far above any number of workers. A record lock behind the end of the lock file does not make the file longer.
MAX_SLOTS: Final = 65536


class SharedSlot:
    """
    A slot in the shared directory, held until the process ends. Get it by `claim` or `copy`, after the fork.

    Not for two threads at once. A signal's handler or a finalizer may ask for a row in the middle of anything here.
    """

    def __init__(
        self,
        path: Path,
        lock_file: LockFile,
        number: int,
        owner: tuple[int, int] | None = None,
        former: SlotFiles | None = None,
    ) -> None:
        self.number = number
        self.path: Path = path
        self.owner = owner
        # Whether rows are kept in memory, and the error that caused it; None if a signal handler did.
        self.incomplete = False
        self.error: OSError | DirectoryError | None = None
        # How many rows were given to other label sets, whose columns are elsewhere.
        self.given = 0
        self._locks = lock_file
        self._appending = False
        self._memory = MemorySlot()
        self._files = SlotFiles(path, number, owner, former)
        uid = os.geteuid() if owner is None else owner[0]
        self._texts = TextFile(path, number, uid, self._files.nonce)
        try:
            self._load()
            if former is None:
                self._files.claim()
        except BaseException:
            self._files.disclaim()
            self._files.close()
            raise

    @classmethod
    def claim(cls, path: Path, owner: tuple[int, int] | None = None) -> SharedSlot:
        """
        Take the lowest slot of *path* that no living process has, and go on in its files.

        *owner* are the uid and gid of the directory's user, where root claims for the user that it will be. Files that
        cannot be read are renamed to `wsgi_prom.N.*.bad`, and the slot starts anew. Slots are passed over whose files this
        process may not read, or has no memory for. Raises OSError, DirectoryError, and the error of such a slot where
        there are too many.
        """
        lock_file = directory.prepare(path, owner=owner)

        def opened(number: int) -> SharedSlot | None:
            try:
                return cls(path, lock_file, number, owner)
            except ClaimedError:
                return None
            except FormatError:
                with directory_files.opened(path) as folder:
                    aside = lock_file.lies_in(folder) and directory.set_aside(folder, number)
                return cls(path, lock_file, number, owner) if aside else None

        return first_usable(lock_file, range(MAX_SLOTS), opened)

    @classmethod
    def copy(cls, former: SharedSlot) -> SharedSlot:
        """
        Claim a slot for what *former* holds, whose files were removed or replaced. Nothing may be stored to it any more.

        Scrapes show the slot only after `publish`. What lies in the place of its files is set aside, unless it is another
        slot. Raises OSError, DirectoryError.
        """
        path, owner, files = former.path, former.owner, former._files
        lock_file = directory.prepare(path, owner=owner)

        def copied(number: int) -> SharedSlot | None:
            if nonce_of(path, number) not in {None, files.nonce}:
                return None
            slot = cls(path, lock_file, number, owner, files)
            if former._locks is lock_file and former.number != number:
                lock_file.release(locks.FIRST_SLOT + former.number)
            files.close()
            former._texts.close()
            return slot

        # An older copy first, as in a directory that was moved away and put back: scrapes take two slots of one nonce for one.
        older = (n for n in directory.slot_numbers(path) if nonce_of(path, n) == files.nonce)
        return first_usable(lock_file, chain(older, [former.number], range(MAX_SLOTS)), copied)

    def is_whole(self) -> bool:
        """Return whether the columns may be looked at: the file is as long as they are."""
        return self._files.are_whole()

    def withdraw(self) -> None:
        """
        Hide the files from scrapes, so that their values can be moved to a copy. Raises OSError, DirectoryError.

        Not before the directory can be used: until then the values stay in the files, wherever those are.
        """
        directory.prepare(self.path, owner=self.owner)
        self._files.withdraw()

    def publish(self) -> None:
        """Show a copy to scrapes, when all that its process has recorded is in it."""
        self._files.claim()

    def tell_stage(self, stage: Stage) -> None:
        """Set the worker's stage, for scrapes and for the next process that claims the slot."""
        self._files.tell_stage(stage)

    def row(
        self, schema: Schema, labelvalues: tuple[str, ...], *, removable: bool = False
    ) -> tuple[Columns, int]:
        first = self._rows.find(schema, labelvalues)
        if first is None:
            first = self._try(self._make, schema, labelvalues)
            if first is None:
                return self._memory.row(schema, labelvalues)
        if not removable:
            self._rows.keep(first)
        return self._files.columns, first

    def use_again(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        if self._rows.find(schema, labelvalues) is None:
            return self._memory.use_again(schema, labelvalues)
        first = self._try(self._make_again, schema, labelvalues)
        return self._memory.row(schema, labelvalues) if first is None else (self._files.columns, first)

    def make_room(self, let_go: Callable[[], None]) -> None:
        removed = self._files.removed[0]
        if not self._appending and self._rows.need_sweep(removed):
            self._appending = True
            try:
                self._rows.sweep(self._files.keys, self._files.columns, removed, let_go)
            finally:
                self._appending = False

    def write_text(self, column: int, text: Text) -> bool:
        """Write *text* for *column*, an index of a row's columns, into the files. Returns False if they have no room for it."""
        if self.error is None and not self._appending:
            self._appending = True
            try:
                return self._texts.write(column - file_format.FIRST_COLUMN, text)
            except (OSError, DirectoryError) as error:
                self.error = error
            finally:
                self._appending = False
        self.incomplete = True
        return True

    def remove(self, removal: Removal) -> None:
        for first in self._rows.covered(removal):
            self._files.columns[first - 1] = removed_now()
        self._files.removed[0] = new_number()
        self._memory.remove(removal)

    @property
    def removed(self) -> memoryview[int]:
        """The word that changes when another process has removed rows."""
        return self._files.removed

    def retry(self) -> None:
        """Let `row` and `write_text` try again to put into the files what had no space there."""
        self.incomplete, self.error = False, None
        self._rows.hurry()

    def leave(self, *, damaged: bool = False) -> None:
        """Close the files, which are set aside if they are *damaged*; release the slot unless a parent process has it."""
        byte = locks.FIRST_SLOT + self.number
        if self._locks.mine(byte):  # and not in a forked child
            if damaged:
                self._files.set_aside()
            self._files.disclaim()
            self._locks.release(byte)
        self._files.close()
        self._texts.close()

    def check(self) -> State:
        """
        Look whether the files are as this process left them, and take the record lock again if it was lost.

        A handful of system calls. Raises OSError, DirectoryError, MemoryError.
        """
        if self._appending:  # a signal's handler: the files are half done
            return State.GOOD
        state = self._files.check()
        if state is State.GOOD:
            if not self._locks.current(self.path):
                self._locks = directory.prepare(self.path, owner=self.owner)
            # Where another process has it, that finds a living owner's claim in the files and leaves the slot again.
            self._locks.acquire(locks.FIRST_SLOT + self.number)
            if not self._texts.check():
                self.incomplete = True
        return state

    def _try(
        self,
        make: Callable[[Schema, tuple[str, ...]], int],
        schema: Schema,
        labelvalues: tuple[str, ...],
    ) -> int | None:
        """Return what *make* returns; None if there is no space, and rows are to be kept in memory."""
        # A line within a line would destroy both. After an error nothing is tried before `retry`.
        if self.error is None and not self._appending:
            self._appending = True
            try:
                return make(schema, labelvalues)
            except OSError as error:
                self.error = error
            finally:
                self._appending = False
        self.incomplete = True
        return None

    def _make(self, schema: Schema, labelvalues: tuple[str, ...]) -> int:
        """Return the first column of a new row, in the place of a removed one if there is such. Raises OSError."""
        lines = self._rows.lines(schema, labelvalues)
        place = self._rows.take(schema, len(lines))
        if place is not None:
            line = file_format.filled(lines, place.length)
            if self._files.give(place.offset, line, place.start, schema.stride):
                self.given += 1
                return self._rows.put(schema, labelvalues, place.start)
        start = self._rows.end
        self._files.append(lines, start, start + schema.stride)
        return self._rows.append(schema, labelvalues)

    def _make_again(self, schema: Schema, labelvalues: tuple[str, ...]) -> int:
        """Return the first column of a row in the place of the removed one of these label values. Raises OSError."""
        first = self._rows.find(schema, labelvalues)
        if first is not None:
            if self._files.use_again(first - 1, schema.stride):
                self._rows.used(first)
                return first
            self._rows.forget(schema, labelvalues)
        return self._make(schema, labelvalues)

    def _load(self) -> None:
        self._rows = SlotRows(self._files.lines)
        self._files.map(self._rows.end)
        columns, now = self._files.columns, time.time()
        self._rows.choose(columns)
        for start, stride in self._rows.per_process:
            began = columns[start]
            columns[start : start + stride] = array("d", (began if began < 0 else now, *[0.0] * (stride - 1)))
