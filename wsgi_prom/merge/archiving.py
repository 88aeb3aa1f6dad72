"""
Add the client library's files of ended processes to the archive, so that they do not pile up.

A cron job that counts something leaves three files a run: after a day of a minutely one, a scrape read 4,326 files in 0.6 s.

1. A file's process has ended if no process has the file open or mapped. Where the kernel cannot tell, the file stays.
2. The file is renamed, and only then checked again and read: a process with the same pid that opened it before the
   rename still has it open, and the file is not added.
3. The order of the steps follows archive.py's first rule.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.merge.client_files import check_entries
from wsgi_prom.store import archive, client_format, directory_files, locks
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.store.client_format import Entry

log = logging.getLogger("wsgi_prom")

# The pause after an attempt, as a multiple of the time that the attempt took.
_PAUSE: Final = 30
_LONGEST_PAUSE_SECONDS: Final = 60.0

# By pid: the record lock does not keep the threads of one process apart, and a forked child may inherit a lock that is held.
_locks: Final[dict[int, threading.Lock]] = {}


class Archiver:
    """
    Adds files to the archive of the directory *path*. One thread of one process does so at a time, and others do not wait.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problem = ""
        self._again = 0.0

    def archive_ended(self) -> None:
        """
        Add the files that ended processes have left. Does nothing while another thread or process does so.

        A call lists the directory and looks at each file of the client library (30 us). Calls together take a thirtieth
        of the time at most. Never raises.
        """
        lock = _locks.setdefault(os.getpid(), threading.Lock())
        if not lock.acquire(blocking=False):
            return
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
                    "files of ended processes stay in %s, where each scrape reads them: %s", self._path, error
                )
        finally:
            # To look at 1,200 files of living processes takes 0.05 s.
            pause = min(_PAUSE * (time.monotonic() - started), _LONGEST_PAUSE_SECONDS)
            self._again = max(self._again, started + pause)
            lock.release()

    def _attempt(self) -> None:
        # FileNotFoundError: the directory is not made yet, no process of ours used it, or its server is removing it.
        with suppress(FileNotFoundError), directory_files.opened(self._path) as folder:
            # Only the directory's user adds files: it could not replace an archive that root made.
            if os.fstat(folder).st_uid != os.geteuid() or not any(
                _left(folder, n) for n in os.listdir(folder)
            ):
                return
            lock_file = LockFile.within(folder, self._path)
            if lock_file.acquire(locks.ARCHIVING):
                try:
                    _add_ended(folder)
                finally:
                    lock_file.release(locks.ARCHIVING)


def _left(folder: int, name: str) -> bool:
    if client_format.origin(name):
        return archive.process_has_ended(folder, name)
    return archive.ended(name) is not None


def _add_ended(folder: int) -> None:
    kept = archive.read(folder)
    number = kept.generation + 1
    _rename_ended(folder, number)
    found = []
    for name in os.listdir(folder):
        ended = archive.ended(name)
        if ended is None:
            continue
        if ended[0] <= kept.generation:
            os.unlink(name, dir_fd=folder)
        else:
            age = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
            found.append((age, name, *ended))
    added: list[str] = []
    # The oldest first: of a gauge of mode `all`, the process that ended last stays.
    for _, name, generation, former in sorted(found):
        entries = _read(folder, name, former)
        # Before the archive has this generation, a file that is added has it, and one that is not has the next.
        wanted = number if entries is not None else number + 1
        if generation != wanted:
            renamed = archive.ended_name(wanted, former)
            os.rename(name, renamed, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            renamed = name
        origin = client_format.origin(former)
        if entries is not None and origin is not None:
            kept.add(origin, entries)
            added.append(renamed)
    if added:
        kept.generation = number
        archive.write(folder, kept)
        for name in added:
            os.unlink(name, dir_fd=folder)


def _rename_ended(folder: int, number: int) -> None:
    """Rename the files of ended processes that can be read, as those that generation *number* of the archive is to have."""
    for name in os.listdir(folder):
        if client_format.origin(name) and _read(folder, name, name) is not None:
            os.rename(name, archive.ended_name(number, name), src_dir_fd=folder, dst_dir_fd=folder)


def _read(folder: int, name: str, former: str) -> list[Entry] | None:
    """
    Return the entries of the file *name*, which the client library named *former*.

    None if it is in use, is not this user's, or cannot be read.
    """
    origin = client_format.origin(former)
    try:
        fd = os.open(name, archive.LOOK_FLAGS, dir_fd=folder)
    except OSError:
        return None
    try:
        directory_files.check_plain(fd, frozenset({os.geteuid()}))
        if origin is None or not locks.unused(fd):
            return None
        entries = client_format.read_entries(fd)
        check_entries(origin, entries)
    except FormatError:
        return None
    else:
        return entries
    finally:
        os.close(fd)
