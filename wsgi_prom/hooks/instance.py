"""What the hooks of both servers do when a server starts, reloads and ends: its directory, and its exporter."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, NoReturn

from wsgi_prom.client import patch
from wsgi_prom.discovery.worker_target import worker_target
from wsgi_prom.errors import DirectoryError, WsgiPromError
from wsgi_prom.exporter.process.launch import exporter_environment, launch, was_lost
from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks.server_directory import ServerDirectory
from wsgi_prom.server import app_info
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory, joined_role, locks
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wsgi_prom.store.directory_walk import Owner

log = logging.getLogger("wsgi_prom")

# Whether this process is a server's: its master, or a child of it.
in_server = False


class Instance:
    """
    One server: made when its configuration is read, which may be all that happens, and started when the server starts.

    *reload* and *master* are those of its `ServerDirectory`.
    """

    def __init__(self, *, reload: bool = False, master: int | None = None) -> None:
        global in_server
        in_server = True
        joined_role.leave()
        self._reload = reload
        self._started = False
        # `launch` with the settings of the start, or of the last reload. None without a directory.
        self._launch: Callable[..., None] | None = None
        self._application: str | None = None
        self._settings: Settings | None = None
        self.directory = ServerDirectory(reload=reload, master=master)
        current_slot.defer()
        patch.install()

    @property
    def path(self) -> Path:
        return self.directory.path

    def start(self, *, owner: Owner | None = None) -> None:
        """
        Enter the directory. Call it in the master, before it forks.

        *owner* are the uid and gid that the workers drop to. A wrong setting, or a directory of the user's choice that cannot
        be used, ends the process with one line that says why. Does nothing the second time.
        """
        if self._started:
            return
        self._started = True
        settings = read_settings()
        if settings.metrics_path is not None or settings.targets == "workers":
            # Workers that drop to another user may not be able to read these modules.
            import_module("wsgi_prom.exporter.app")
            if settings.web_config is not None:
                with suppress(ImportError):  # the workers' error says what to install
                    import_module("wsgi_prom.exporter.web_config")
        try:
            self.directory.enter(owner)
        except DirectoryError as error:
            if not directory.is_temporary(self.path):
                refuse(error)
            # Not the user's mistake: nothing can be written to, or another server's end came between.
            log.error("no metrics: %s", error)
            return
        current_slot.attach(self.path, owner)
        self._configure_exporter(settings, None, owner)

    def set_target(self, target: Target) -> None:
        """Say whose metrics the exporter shows. Call it between `start` and `start_exporter`."""
        if self._launch is not None and self._settings is not None:
            named = self._named(target)
            self._launch = partial(self._launch, target=named)
            worker_target.configure(self._settings, named)

    def start_exporter(self, **options: Any) -> None:
        """Start the exporter, unless there is one, with *options* of `launch`. Does nothing if the directory cannot be used."""
        if self._launch is None:
            return
        try:
            self._launch(**{"reload": self._reload, **options})
        except OSError as error:
            log.error("no exporter: %s", error)

    def reload(
        self, *, target: Target, owner: Owner | None = None, log_file: IO[bytes] | int | None = None
    ) -> None:
        """Restart the exporter with the settings of now, or end it if they are wrong. For a reload without a start."""
        if self._launch is None:
            return
        try:
            settings = Settings.read()
        except WsgiPromError as error:
            # As at a start: a page for which a token was configured must not go on without one.
            log.error("%s There are no metrics until a reload without this mistake", error)
            settings = Settings(bind=None)
        self._configure_exporter(settings, target, owner)
        self.start_exporter(reload=True, log_file=log_file)

    def replace_lost_exporter(self, parent: int) -> None:
        """
        Start another exporter, for the master *parent*, if both processes of the last one were killed.

        Call it in each worker that starts: it costs a dozen system calls. Raises OSError, DirectoryError.
        """
        if self._launch is None:
            return
        lock_file = LockFile.of(self.path)
        # Of workers that start at the same time, one starts the exporter.
        if was_lost(lock_file) and lock_file.acquire(locks.LAUNCH):
            try:
                if was_lost(lock_file):
                    log.warning(
                        "both processes of the exporter were killed; a worker starts another exporter"
                    )
                    self.start_exporter(reload=False, parent=parent)
            finally:
                lock_file.release(locks.LAUNCH)

    def _configure_exporter(self, settings: Settings, target: Target | None, owner: Owner | None) -> None:
        self._application = settings.app
        # An application that is imported later may change the environment, before a worker starts the exporter.
        environ = exporter_environment()
        named = target and self._named(target)
        self._settings = settings
        if named:
            worker_target.configure(settings, named)
        self._launch = partial(
            launch, self.path, settings.bind, target=named or Target(), owner=owner, environ=environ
        )

    def _named(self, target: Target) -> Target:
        named = replace(target, application=self._application) if self._application else target
        app_info.name(named.application)
        return named


@contextmanager
def attempt(consequence: str) -> Iterator[None]:
    """Keep errors within from the server, and log each in one line that begins with its *consequence*."""
    try:
        yield
    except Exception as error:
        with suppress(Exception):  # there is no memory for the line either
            log.error("%s: %s: %s", consequence, type(error).__name__, error)


def read_settings() -> Settings:
    """Return the settings of the environment; end the process with one line if one is wrong."""
    try:
        return Settings.read()
    except WsgiPromError as error:
        refuse(error)


def refuse(error: WsgiPromError) -> NoReturn:
    """End the process with one line for the server's log: a configuration mistake is told at start."""
    if sys.stdout is not None:  # closed before the server started
        sys.stdout.flush()
    sys.exit(f"wsgi_prom: {error}")
