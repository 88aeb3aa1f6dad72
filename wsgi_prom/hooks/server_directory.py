"""The shared directory of a server: chosen when the configuration is read, entered when the server starts."""

from __future__ import annotations

import atexit
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory, directory_files, directory_names, entry, environment, locks

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from wsgi_prom.store.directory_walk import Owner
    from wsgi_prom.store.locks import LockFile

log = logging.getLogger("wsgi_prom")


class ServerDirectory:
    """
    The directory *path* that the processes of one server share: the user's choice, or one made for this server or its name.

    After a *reload* it is the directory that was announced before the exec, by the process *master* if that is known.
    """

    def __init__(self, *, reload: bool = False, master: int | None = None) -> None:
        self._reload = reload
        self._master = master
        self._made_early = False
        self._lock_file: LockFile | None = None
        # The number of this server among those of the directory; None before it has entered it, and if there are too many.
        self.number: int | None = None
        self._choose()

    def _choose(self, owner: Owner | None = None) -> None:
        found = (environment.announced(self._master) if self._reload else None) or environment.configured()
        name = environment.name()
        self._new = found is None
        if found is not None:
            self.path = Path(os.path.normpath(found.absolute()))
        elif name is not None:
            self.path = directory_names.directory_of(name, owner and owner[0])
        else:
            self.path = directory.name_temporary()
        # Before the application is imported, which may look at the variable.
        self._announce()

    def _announce(self) -> None:
        if environment.configured() != self.path:
            environment.show(self.path)
            environment.announce(self.path)

    def announce_in(self, environ: MutableMapping[str, str]) -> None:
        """Name the directory in *environ*, the environment of another master that goes on in it."""
        if environment.configured() != self.path:
            environment.announce(self.path, environ)

    def make_early(self) -> None:
        """
        Make the directory now, empty: a preloaded application may look for it before the server starts.

        It is removed at the end of this process if no server starts. Never raises.
        """
        with suppress(OSError, DirectoryError), directory_files.made(self.path, os.geteuid(), None, new=True):
            self._made_early = True
            atexit.register(self._remove_early, os.getpid())

    def _remove_early(self, pid: int) -> None:
        # Not in a child that the process *pid* has forked.
        if self._made_early and pid == os.getpid():
            atexit.unregister(self._remove_early)
            with suppress(OSError):
                self.path.rmdir()
                self._made_early = False

    def enter(self, owner: Owner | None) -> None:
        """
        Make the directory ready, and hold the lock of one of its servers. Raises DirectoryError.

        It is chosen again if the variable was changed since. *owner* are the uid and gid that the workers drop to. After a
        reload the server goes on with what is in the directory.
        """
        # The directory is made again below, for the workers' user, unless the application has put something there.
        self._remove_early(os.getpid())
        if os.environ.get(environment.VARIABLE) != str(self.path) or (self._new and environment.name()):
            self._choose(owner)
        if not self._new:
            self._use_own(owner)
        # A daemon is another process than the one that read the configuration.
        self._announce()
        # Again, if the sweep of another server that starts, or the last process of the name, has removed it before it was
        # locked.
        own = self._new and not directory_names.is_named(self.path)
        entry.enter(self.path, self._lock, new=own and not self._made_early, owner=owner)
        if self._new:
            directory.sweep(self.path, owner)
        # After another fork or reload it is there.
        self._new = False

    def _lock(self, lock_file: LockFile) -> None:
        if not self._reload and not directory.holders(self.path, lock_file):
            directory.clear(self.path, lock_file)
        self.number = next((byte for byte in locks.SERVERS if lock_file.acquire(byte)), None)
        self._lock_file = lock_file
        with suppress(OSError):  # a full disk
            self._set_target(0)

    def tell_target(self, workers: int) -> None:
        """Say how many workers the server is to have. Does nothing before it has entered the directory. Raises OSError."""
        self._set_target(workers + 1)

    def _set_target(self, number: int) -> None:
        if self._lock_file is not None and self.number is not None:
            self._lock_file.set_number(locks.WORKERS[self.number], number)

    def _use_own(self, owner: Owner | None) -> None:
        named, self.path = self.path, directory_files.own_directory(self.path, owner)
        if self.path != named:
            log.warning(
                "%s=%s is open to others, or root's: the server uses %s, which is its user's alone. Programs with the client "
                "library alone write to %s, and are not on the page: set the variable to %s for those that should be.",
                environment.VARIABLE, named, self.path, named, self.path,
            )  # fmt: skip

    def discard(self) -> None:
        """Remove the directory if wsgi_prom made it and no other server uses it. The exporter may have done so before."""
        if self._lock_file is not None:
            directory.discard(self.path, self._lock_file)
