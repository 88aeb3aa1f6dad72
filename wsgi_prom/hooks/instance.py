"""What both servers' hooks do when a server starts: its directory, its place among the live ones, its exporter."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

from wsgi_prom.client import patch
from wsgi_prom.errors import DirectoryError, WsgiPromError
from wsgi_prom.exporter.process.launch import launch
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory, directory_files, environment, locks
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.exporter.target import Target
    from wsgi_prom.store.locks import Locks

log = logging.getLogger("wsgi_prom")

_ATTEMPTS: Final = 3


class Instance:
    """
    One server: made when its configuration is read, which may be all that happens to it, and started when it starts.

    With *reload* it goes on in the directory that was announced before the exec: by the process *master*, if that is known.
    """

    def __init__(self, *, reload: bool = False, master: int | None = None) -> None:
        self._reload = reload
        self._master = master
        self._started = False
        self._early = False
        self._lock_file: Locks | None = None
        self._launch: Callable[..., None] | None = None
        self._choose()
        current_slot.defer()
        patch.install()

    def _choose(self) -> None:
        found = (environment.announced(self._master) if self._reload else None) or environment.configured()
        self._new = found is None
        self.path = Path(os.path.abspath(found)) if found else directory.name_temporary()  # noqa: PTH100
        # Before the application is imported, which may look at the variable.
        self._tell()

    def make_early(self) -> None:
        """
        Make the directory now, empty: a preloaded application may ask whether it is there, before the server starts.

        It is removed at the end of this process if no server starts. Never raises.
        """
        with suppress(OSError, DirectoryError), directory_files.made(self.path, os.geteuid(), None, new=True):
            self._early = True
            atexit.register(self._unmake, os.getpid())

    def start(
        self,
        *,
        target: Target,
        owner: tuple[int, int] | None = None,
        log_file: IO[bytes] | int | None = None,
        exporter: bool = True,
    ) -> None:
        """
        Make the directory ready and start the exporter of *target*. Call it in the master, before it forks.

        Without *exporter* that is left to `launch`, where this process is not the master yet. *owner* are the uid and gid
        that the workers drop to. After a reload the server goes on with what is in the directory. A wrong setting, or a
        directory of the user's choice that cannot be used, ends the process with one line that says why. Does nothing the
        second time.
        """
        if self._started:
            return
        self._started = True
        # Read now, and not when the configuration is: it may itself set variables (gunicorn's raw_env).
        try:
            settings = Settings.read()
        except WsgiPromError as error:
            refuse(error)
        if settings.metrics_path is not None:
            # A worker that has dropped to another user may not be able to read it.
            import_module("wsgi_prom.exporter.app")
        self._choose_again(owner)
        try:
            self._lock_file = self._enter(owner)
        except DirectoryError as error:
            if not directory.temporary(self.path):
                refuse(error)
            # Not the user's mistake: a machine without any place to write to, or another server's end that comes
            # between. The application is served.
            log.error("no metrics: %s", error)
            return
        if self._new:
            directory.sweep(self.path, owner)
        # What comes after a fork, an exec or a reload finds the same directory and goes on in it.
        self._new = False
        current_slot.attach(self.path, owner)
        self._launch = self._launcher(settings, target, owner)
        if exporter:
            self.launch(reload=self._reload, log_file=log_file)

    def reload(
        self,
        *,
        target: Target,
        owner: tuple[int, int] | None = None,
        log_file: IO[bytes] | int | None = None,
    ) -> None:
        """Have the exporter serve with the settings of now, or end where they are wrong. For a reload without a start."""
        if self._launch is None:
            return
        try:
            settings = Settings.read()
        except WsgiPromError as error:
            # As at a start: who asked for a token must not have a page that goes on without.
            log.error("%s There are no metrics until a reload without this mistake", error)
            settings = Settings(bind=None)
        self._launch = self._launcher(settings, target, owner)
        self.launch(reload=True, log_file=log_file)

    def launch(self, **options: Any) -> None:
        """Start the exporter, with *options* of `launch`, unless there is one. Does nothing if the directory cannot be used."""
        if self._launch is not None:
            try:
                self._launch(**options)
            except OSError as error:
                log.error("no exporter: %s", error)

    def _launcher(
        self, settings: Settings, target: Target, owner: tuple[int, int] | None
    ) -> Callable[..., None]:
        if settings.app:
            target = replace(target, application=settings.app)
        return partial(launch, self.path, settings.bind, target=target, owner=owner)

    def _choose_again(self, owner: tuple[int, int] | None) -> None:
        """Choose the directory again, by the environment as it is now, and set the variable in this process."""
        # Made again for the workers' user, unless the application has put something there.
        self._unmake()
        if os.environ.get(environment.VARIABLE) != str(self.path):
            self._choose()
        if not self._new:
            self._use_own(owner)
        # A daemon is another process than the one that read the configuration.
        self._tell()

    def _use_own(self, owner: tuple[int, int] | None) -> None:
        named, self.path = self.path, directory_files.own_directory(self.path, owner)
        if self.path != named:
            log.warning(
                "%s=%s is open to others, or root's: the server uses %s, which is its user's alone. Programs with the client "
                "library alone write to %s, and are not on the page: set the variable to %s for those that should be.",
                environment.VARIABLE, named, self.path, named, self.path,
            )  # fmt: skip

    def _enter(self, owner: tuple[int, int] | None) -> Locks:
        """Make the directory ready, and be one of its servers: again, if another server has swept it away before that was so."""
        for attempt in range(_ATTEMPTS):
            new = self._new and not self._early and attempt == 0
            lock_file = directory.prepare(self.path, new=new, owner=owner)
            if not self._reload and not directory.holders(self.path, lock_file):
                directory.clear(self.path, lock_file)
            next((byte for byte in locks.SERVERS if lock_file.acquire(byte)), None)
            lock_file.mark_used()
            if lock_file.current(self.path):
                break
        return lock_file

    def environ_of_successor(self, environ: dict[str, str]) -> None:
        """Name the directory in *environ*, which another master is started with that goes on in it."""
        if environment.configured() != self.path:
            environment.announce(self.path, environ)

    def stop(self) -> None:
        """Remove the directory if wsgi_prom made it and no other server uses it. The exporter may have done so before."""
        if self._lock_file is not None:
            directory.discard(self.path, self._lock_file)

    def _tell(self) -> None:
        if environment.configured() != self.path:
            environment.show(self.path)
            environment.announce(self.path)

    def _unmake(self, pid: int = 0) -> None:
        """Remove what `make_early` has made, in the process *pid* alone if one is given, and not in its children."""
        if self._early and pid in {0, os.getpid()}:
            atexit.unregister(self._unmake)
            with suppress(OSError):
                self.path.rmdir()
                self._early = False


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
