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

from wsgi_prom.errors import DirectoryError, FormatError, WsgiPromError
from wsgi_prom.store import directory, directory_files, file_format, locks
from wsgi_prom.store.claims import ClaimedError
from wsgi_prom.store.memory_slot import MemorySlot
from wsgi_prom.store.removal import fit, new_number, removed_now
from wsgi_prom.store.schemas import PER_PROCESS_MODES
from wsgi_prom.store.slot_files import SlotFiles, State
from wsgi_prom.store.text_file import TextFile
from wsgi_prom.store.usable_slot import first_usable

if TYPE_CHECKING:
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
        self._locks = lock_file
        self._appending = False
        self._schemas: dict[Schema, int] = {}
        self._rows: dict[tuple[int, tuple[str, ...]], int] = {}
        self._memory = MemorySlot()
        self._end = file_format.FIRST_COLUMN
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
            if _nonce_of(path, number) not in {None, files.nonce}:
                return None
            slot = cls(path, lock_file, number, owner, files)
            if former._locks is lock_file and former.number != number:
                lock_file.release(locks.FIRST_SLOT + former.number)
            files.close()
            former._texts.close()
            return slot

        # An older copy first, as in a directory that was moved away and put back: scrapes take two slots of one nonce for one.
        older = (n for n in directory.slot_numbers(path) if _nonce_of(path, n) == files.nonce)
        return first_usable(lock_file, chain(older, [former.number], range(MAX_SLOTS)), copied)

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

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        number = self._schemas.get(schema)
        first = None if number is None else self._rows.get((number, labelvalues))
        if first is not None:
            return self._files.columns, first
        # A line within a line would destroy both. After an error nothing is tried before `retry`.
        if self.error is None and not self._appending:
            self._appending = True
            try:
                return self._append(schema, number, labelvalues)
            except OSError as error:
                self.error = error
            finally:
                self._appending = False
        self.incomplete = True
        return self._memory.row(schema, labelvalues)

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
        """See `Slot`. Files that were cut short stay as they are."""
        self._memory.remove(removal)
        if not self._files.is_whole():
            return
        for schema, number in list(self._schemas.items()):
            wanted = removal.labelvalues(schema)
            if wanted is not None:
                for first in self._firsts(number, wanted):
                    self._files.columns[first - 1] = removed_now()
        self._files.removed[0] = new_number()

    def _firsts(self, schema: int, wanted: tuple[str | None, ...]) -> list[int]:
        """Return the first columns of the rows of a schema that have the label values *wanted*."""
        if None in wanted:
            rows = list(self._rows.items())
            return [first for (number, values), first in rows if number == schema and fit(wanted, values)]
        first = self._rows.get((schema, wanted))  # type: ignore[arg-type]
        return [] if first is None else [first]

    @property
    def removed(self) -> memoryview[int]:
        """The word that changes when another process has removed rows."""
        return self._files.removed

    def has_removed(self, *, since: int) -> bool:
        """Return whether rows were removed after that word was *since*; False where the values cannot be read."""
        return self._files.is_whole() and self._files.removed[0] != since

    def retry(self) -> None:
        """Let `row` and `write_text` try again to put into the files what had no space there."""
        self.incomplete, self.error = False, None

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

    def _append(
        self, schema: Schema, number: int | None, labelvalues: tuple[str, ...]
    ) -> tuple[Columns, int]:
        lines = b""
        if number is None:
            number = len(self._schemas)
            lines = file_format.schema_line(schema)
        lines += file_format.row_line(number, labelvalues)
        start, end = self._end, self._end + schema.stride
        self._files.append(lines, start, end)
        self._end = end
        self._schemas[schema] = number
        self._rows[number, labelvalues] = start + 1
        return self._files.columns, start + 1

    def _load(self) -> None:
        schemas: list[Schema] = []
        rows = file_format.parse_lines(self._files.lines, schemas)
        # By identity, which takes half of the time of a look-up by the schema.
        numbers = {id(schema): self._schemas.setdefault(schema, n) for n, schema in enumerate(schemas)}
        modes = PER_PROCESS_MODES
        per_process = {id(schema) for schema in schemas if any(m.mode in modes for m in schema.metrics)}
        gauges: list[tuple[int, int]] = []
        known, end = self._rows, self._end
        for schema, labelvalues in rows:
            key, stride = id(schema), schema.stride
            known.setdefault((numbers[key], labelvalues), end + 1)
            if key in per_process:
                gauges.append((end, stride))
            end += stride
        self._end = end
        self._files.map(end)
        now = time.time()
        for start, stride in gauges:
            began = self._files.columns[start]
            self._files.columns[start : start + stride] = array(
                "d", (began if began < 0 else now, *[0.0] * (stride - 1))
            )


def _nonce_of(path: Path, number: int) -> int | None:
    """Return the nonce of slot *number* in *path*, None if there is none that can be read."""
    try:
        with directory_files.opened(path) as folder:
            fd = directory_files.open_file(
                directory.slot_file(number, "values"), folder, os.O_RDONLY, create=False
            )
        try:
            return file_format.unpack_header(os.pread(fd, file_format.HEADER.size, 0))[0]
        finally:
            os.close(fd)
    except (OSError, WsgiPromError):
        return None
