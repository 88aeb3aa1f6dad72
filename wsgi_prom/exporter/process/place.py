"""
The exporter's place in a shared directory, held for as long as one of the exporter's processes lives.
"""

# Rule 1: one exporter a directory. It begins with the lock for itself alone, which only one can get; its two processes
#         share it from then on, so that there is no moment without a holder, whichever of them dies. Those that end in
#         order let go as soon as they no longer listen.
# Rule 2: the directory is the one that has the path now. Who removed it and made it again has made a lock file of its own.

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.process.life import terminate
from wsgi_prom.store import directory, directory_files, locks
from wsgi_prom.store.locks import Locks, Presence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Longer than an exporter takes that ends in order, even where its last clients are slow.
_TAKE_OVER_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.005


class Place:
    """
    The exporter's place in the directory *path*, whose lock file is *lock_file*.

    *launch* is the number that its server gave it: a later launch, or none at all by the settings of a reload, takes the
    place from one that has not come up yet. None for an exporter that was started by hand. After a fork the child has none until it calls `keep`. One thread of a process at a time.
    """

    def __init__(self, path: Path, lock_file: Locks, launch: int | None = None) -> None:
        self.path = path
        self._launch = launch
        # A server that was there before the directory was made again holds its byte in the file of its time.
        self._lock_files = [lock_file]
        self._presence = Presence()

    @property
    def lock_file(self) -> Locks:
        return self._lock_files[-1]

    def take(self) -> bool:
        """Take the place. False if the directory has an exporter, or this one is superseded."""
        if self.superseded() or not self.lock_file.acquire(locks.EXPORTER):
            return False
        # Again: who calls this one off before it has the place does not see it, and later sees that it has.
        if self.superseded():
            self.let_go()
            return False
        return True

    def superseded(self) -> bool:
        """Return whether its server has started another since, or called it off: it is to leave without a word."""
        return self._launch is not None and self.lock_file.launch() not in {0, self._launch}

    def take_over(self) -> bool:
        """
        Take the place from the exporter that has it, which is told to end, and lets go when it no longer listens.

        Returns False if it cannot be told, since it runs in another pid namespace or as another user, and if this one is
        superseded.
        """
        deadline = time.monotonic() + _TAKE_OVER_SECONDS
        told: set[int] = set()
        while not self.take():
            if self.superseded():
                return False
            late = time.monotonic() > deadline
            holder = self.lock_file.holder(locks.EXPORTER)
            if holder == 0:
                return False
            # The pair's other process comes to light when this one has let go. One that is stopped takes no SIGTERM.
            if holder is not None and (late or holder not in told):
                told.add(holder)
                try:
                    terminate(holder, signal.SIGKILL if late else signal.SIGTERM)
                except PermissionError:
                    return False
            time.sleep(_POLL_SECONDS)
        return True

    def let_go(self) -> None:
        """Let another exporter have the place. Never raises."""
        with suppress(OSError):
            self.lock_file.release(locks.EXPORTER)

    def share(self) -> None:
        """Let the other process of this exporter hold the place too. Never raises."""
        with suppress(OSError):  # the kernel is out of locks: tried again when the place is kept
            self.lock_file.share(locks.EXPORTER)

    def keep(self) -> None:
        """
        Hold the place in the directory that has the path now, and keep systemd-tmpfiles out of it.

        For each process of the exporter, each second: a dozen of system calls. While there is no directory nothing is made,
        since it may be gone for good with its server. Never raises.
        """
        # Nothing is written to a directory that is somebody else's by now.
        with suppress(OSError, DirectoryError), directory_files.opened(self.path, os.geteuid()) as folder:
            found = Locks.within(folder, self.path)
            if found is not self.lock_file:
                self._lock_files.append(found)
            self._presence.keep(folder)
        if not self.lock_file.mine(locks.EXPORTER):
            self.share()

    def leave(self) -> None:
        """Remove the directory if it was made for a server, and none uses it. Never raises."""
        if next(self.servers(), None) is None:
            directory.discard(self.path, self.lock_file)

    def servers(self) -> Iterator[int]:
        """Yield the pids of the servers that use the directory, or used it before it was made again; 0 for one in another pid namespace."""
        for lock_file in self._lock_files:
            yield from lock_file.servers()
