"""What both servers' hooks do when a server starts: its directory, its place among the live ones, its exporter."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from wsgi_prom.errors import DirectoryError, WsgiPromError
from wsgi_prom.exporter.launch import launch
from wsgi_prom.settings import Settings
from wsgi_prom.storage import adoption, directory, locks
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.storage.locks import Locks

log = logging.getLogger("wsgi_prom")


class Instance:
    """
    One server: made when its configuration is read, which may be all that happens to it, and started when it starts.
    """

    def __init__(self) -> None:
        self._started = False
        self._lock_file: Locks | None = None
        self._choose()
        lease.defer()
        adoption.install()

    def _choose(self) -> None:
        found = directory.configured()
        self._new = found is None
        self.path = Path(os.path.abspath(found)) if found else directory.name_temporary()  # noqa: PTH100
        # In force before the application is imported, which may look at it; nothing is made yet.
        os.environ[directory.VARIABLE] = str(self.path)

    def start(
        self,
        *,
        reload: bool,
        owner: tuple[int, int] | None = None,
        log_file: IO[bytes] | int | None = None,
    ) -> None:
        """
        Make the directory ready and start the exporter. Call it in the master, before it forks.

        *owner* are the uid and gid that the workers drop to. With *reload*, the server goes on with what is in the
        directory. A wrong setting, or a directory of the user's choice that cannot be used, ends the process with one line
        that says why. Does nothing the second time.
        """
        if self._started:
            return
        self._started = True
        # Read now, and not when the configuration is: it may itself set variables (gunicorn's raw_env).
        try:
            settings = Settings.read()
        except WsgiPromError as error:
            refuse(error)
        if os.environ.get(directory.VARIABLE) != str(self.path):
            self._choose()
        try:
            self._lock_file = directory.prepare(self.path, new=self._new, owner=owner)
        except DirectoryError as error:
            if not directory.temporary(self.path):
                refuse(error)
            # Not the user's mistake: a machine without any place to write to, or another server's end that comes
            # between. The application is served.
            log.error("no metrics: %s", error)
            return
        if self._new:
            directory.sweep(self.path.parent, owner)
        if not reload and not directory.holders(self.path, self._lock_file):
            directory.clear(self.path, self._lock_file)
        next((byte for byte in locks.SERVERS if self._lock_file.acquire(byte)), None)
        self._lock_file.mark_used()
        # What comes after a fork, an exec or a reload finds the same directory and goes on in it.
        self._new = False
        lease.attach(self.path, owner)
        try:
            launch(self.path, settings.bind, owner=owner, log_file=log_file)
        except OSError as error:
            log.error("no exporter: %s", error)

    def stop(self) -> None:
        """Remove the directory if wsgi_prom made it and no other server uses it. The exporter may have done so before."""
        if self._lock_file is not None:
            directory.discard(self.path, self._lock_file)


@contextmanager
def attempt(otherwise: str) -> Iterator[None]:
    """Keep what goes wrong within from the server, and log it in one line that begins with *otherwise*: what follows."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):  # there is no memory for the line either
            log.error("%s: %s: %s", otherwise, type(error).__name__, error)


def refuse(error: WsgiPromError) -> NoReturn:
    """End the process with one line for the server's log: a configuration mistake is told at start."""
    if sys.stdout is not None:  # closed before the server started
        sys.stdout.flush()
    sys.exit(f"wsgi_prom: {error}")
