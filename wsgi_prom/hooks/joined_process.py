"""
A process that is no web worker and records with those of a server: Celery, a cron job, a command. The application calls `join`.

1. The process holds a slot of the shared directory until it ends. So a server that starts again goes on in the directory, and
   neither clears nor removes it.
2. A process that is a server's already is left as it is: a module of an application may be imported by both.
3. Only a wrong argument or setting raises. A process that cannot join records in its own memory.
"""

from __future__ import annotations

import atexit
import logging
import time
from threading import Thread
from typing import TYPE_CHECKING, Final

from wsgi_prom.client import patch
from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.process.launch import exporter_environment, launch
from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks import instance
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory, environment, joined_role, locks, named_directory
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.shared_directory import shared_directory

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.settings import Address

log = logging.getLogger("wsgi_prom")

# What the processes of a server are (server/members.py).
_TAKEN: Final = frozenset(
    {"worker", "master", "exporter", "supervisor", "mule", "spooler", "dirty", "daemon"}
)
_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 1.0
_START_SECONDS: Final = 4.0


def join(role: str = "task", *, name: str | None = None, serve: bool = False) -> None:
    """
    Have this process, and those that it forks, record with the processes of a server, from now on.

    The directory is that of the server that the process runs below, `PROMETHEUS_MULTIPROC_DIR`, or that of *name*, by default the
    setting `WSGI_PROM_NAME`, which the server has too. *role* is a label of its figures. With *serve* a thread starts an exporter
    whenever there is none, which ends with this process, or when a server starts its own. Does nothing the second time, and in a
    server's own processes. Call it before threads record. Raises SettingError for a wrong argument or setting.
    """
    check_role(role)
    settings = Settings.read(name=name)
    if instance.in_server:
        return
    if joined_role.current is not None:
        current_slot.renew()  # in a child that was forked since
        return
    path = shared_directory() or (settings.name and named_directory.directory_of(settings.name)) or None
    if path is None:
        log.warning(
            "this process has not joined any other, and its metrics are on no page. Set WSGI_PROM_NAME to the same name for it and for "
            "the server, or %s to the same directory",
            environment.VARIABLE,
        )
        return
    joined_role.current = joined_role.JoinedRole(role)
    with instance.attempt("this process records for itself alone"):
        patch.install()
        _enter(path, joined_role.current)
        atexit.register(_leave, path)
        if serve and settings.bind is not None:
            arguments = path, settings.bind, settings.app or settings.name or ""
            Thread(target=_serve, args=arguments, name="wsgi_prom exporter", daemon=True).start()


def check_role(role: str) -> None:
    """Raise SettingError unless a process can join as *role*."""
    if not joined_role.PATTERN.fullmatch(role) or role in _TAKEN:
        raise SettingError(
            f"role={role!r} is not a name of up to 32 letters, digits, - and _, other than {', '.join(sorted(_TAKEN))}."
        )


def _enter(path: Path, role: joined_role.JoinedRole) -> None:
    """Claim a slot in *path*, where no other process is about to remove the directory."""
    current_slot.attach(path)
    current_slot.add(role)
    for _ in range(_ATTEMPTS):
        current_slot.renew()
        try:
            lock_file = LockFile.of(path)
        except OSError:  # it cannot be made: the current slot has logged that, and tries again
            return
        if lock_file.current(path) and not lock_file.discarded:
            return
        time.sleep(_PAUSE_SECONDS)
        current_slot.check()


def _serve(path: Path, address: Address, application: str) -> None:
    """Start an exporter whenever the directory *path* has none: at once, when a server has ended, and when all of it was killed."""
    # An application may change its environment later.
    environ = exporter_environment()
    while True:
        with instance.attempt("no exporter"):
            if LockFile.of(path).holder(locks.EXPORTER) is None:
                launch(path, address, target=Target(application), environ=environ)
                # Longer than it takes to come up.
                time.sleep(_START_SECONDS)
        time.sleep(_LOOK_SECONDS)


def _leave(path: Path) -> None:
    """Remove the directory of a name that no other process uses."""
    if named_directory.is_named(path):
        with instance.attempt(f"{path} stays there"):
            directory.discard(path, LockFile.of(path))
