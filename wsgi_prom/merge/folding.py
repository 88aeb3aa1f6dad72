"""
Adding the files of ended processes of the client library to the archive, so that they do not pile up.

A cron job that counts something leaves three files a run: after a day of a minutely one a scrape read 4,326 files in 0.6 s.
"""

# Rule 1: a file's process has ended if no process has the file open or mapped. Where the kernel cannot tell, it stays.
# Rule 2: the file is renamed, and only then checked again and read: a process with the same pid that opened it before
#         the rename still has it open, and the file is not added.
# Rule 3: the order of the steps follows archive.py's first rule.

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.merge import client_files
from wsgi_prom.store import archive, client_format, directory_files, locks
from wsgi_prom.store.locks import Locks

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.merge.client_files import Part
    from wsgi_prom.store.client_format import Entry, Origin

    Refused = dict[str, tuple[int, int, int] | None]

log = logging.getLogger("wsgi_prom")

# The pause after an attempt, as a multiple of the time that the attempt took.
_PAUSE: Final = 30
_LONGEST_PAUSE_SECONDS: Final = 60.0

_LOOK_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Folding:
    """
    Adds files to the archive of the directory *path*. Thread safe. One process at a time does it; others do not wait.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._problem = ""
        self._again = 0.0
        # Files of ended processes that could not be read, with their state then: they are read again once it changes.
        self._refused: Refused = {}

    def fold(self) -> None:
        """
        Add what ended processes have left. Does nothing while another thread or process does so.

        It costs a listing of the directory and some 30 us for each file of the client library, and takes a thirtieth of
        the time at most, however often it is called. Never raises.
        """
        if self._lock.acquire(blocking=False):
            started = time.monotonic()
            try:
                if started < self._again:
                    return
                self._attempt()
                self._problem = ""
            except Exception as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    log.warning(
                        "files of ended processes stay in %s, where each scrape reads them: %s",
                        self._path,
                        error,
                    )
            finally:
                # To look at 1,200 files of living processes takes 0.05 s.
                self._again = max(
                    self._again, started + min(_PAUSE * (time.monotonic() - started), _LONGEST_PAUSE_SECONDS)
                )
                self._lock.release()

    def _attempt(self) -> None:
        # FileNotFoundError: not made yet, nobody of ours has been here yet, or it is being removed with its server.
        with suppress(FileNotFoundError), directory_files.opened(self._path) as folder:
            # Only the directory's user adds files: it could not replace an archive that root made.
            if os.fstat(folder).st_uid != os.geteuid() or not _left(folder, self._refused):
                return
            lock_file = Locks.within(folder, self._path)
            if lock_file.acquire(locks.FOLDING):
                try:
                    _fold(folder, self._refused)
                finally:
                    lock_file.release(locks.FOLDING)


def _left(folder: int, refused: Refused) -> bool:
    names = os.listdir(folder)
    for name in set(refused).difference(names):
        del refused[name]
    return any(
        archive.ended(name)
        or (
            client_format.origin(name)
            and (name not in refused or refused[name] != _state(folder, name))
            and archive.of_ended(folder, name)
        )
        for name in names
    )


def _fold(folder: int, refused: Refused) -> None:
    kept = archive.read(folder, frozenset({os.geteuid()}))
    number = kept.generation + 1
    found: list[tuple[int, str, str]] = []
    checked: set[Part] = set()
    for name in os.listdir(folder):
        ended = archive.ended(name)
        if ended is None:
            ended_name = (
                _taken(folder, name, number, refused, checked) if client_format.origin(name) else None
            )
            if ended_name is not None:
                found.append((_age(folder, ended_name), ended_name, name))
        elif ended[0] <= kept.generation:
            os.unlink(name, dir_fd=folder)
        else:
            found.append((_age(folder, name), name, ended[1]))
    added: list[str] = []
    for _, name, former in sorted(found):
        origin = client_format.origin(former)
        entries = _read(folder, name, origin, checked)
        ended = archive.ended(name)
        # Before the archive has this generation, a file that is added has it, and one that is not has the next.
        wanted = number if entries is not None else number + 1
        if ended is not None and ended[0] != wanted:
            os.rename(
                name, renamed := archive.ended_name(wanted, former), src_dir_fd=folder, dst_dir_fd=folder
            )
            name = renamed  # noqa: PLW2901 - it is the same file
        if entries is not None and origin is not None:
            kept.add(origin, entries)
            added.append(name)
    if added:
        kept.generation = number
        archive.write(folder, kept)
        for name in added:
            os.unlink(name, dir_fd=folder)


def _taken(folder: int, name: str, number: int, refused: Refused, checked: set[Part]) -> str | None:
    """Rename the file *name* if it is one of an ended process that can be read, and return its new name."""
    state = _state(folder, name)
    if _read(folder, name, client_format.origin(name), checked) is None:
        if archive.of_ended(folder, name):
            refused[name] = state
        return None
    ended_name = archive.ended_name(number, name)
    os.rename(name, ended_name, src_dir_fd=folder, dst_dir_fd=folder)
    return ended_name


def _read(folder: int, name: str, origin: Origin | None, checked: set[Part]) -> list[Entry] | None:
    """Return the entries of the file *name*, None if it is in use, is not this user's, or cannot be read."""
    try:
        fd = os.open(name, _LOOK_FLAGS, dir_fd=folder)
    except OSError:
        return None
    try:
        client_format.check_plain(fd, frozenset({os.geteuid()}))
        if origin is None or not locks.unused(fd):
            return None
        entries = client_format.read_entries(fd)
        for part in client_files.parts_of(origin, entries):
            if part not in checked:
                client_files.row_of(part)
                checked.add(part)
    except FormatError:
        return None
    else:
        return entries
    finally:
        os.close(fd)


def _state(folder: int, name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _age(folder: int, name: str) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
