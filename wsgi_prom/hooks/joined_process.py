"""
A process that is no web worker and records with those of a server: Celery, a cron job, a command. The application calls `join`.

1. The process holds a slot of the shared directory until it ends. So a server that starts again goes on in the directory, and
   neither clears nor removes it.
2. A process that is a server's already is left as it is: a module of an application may be imported by both.
3. Only a wrong argument or setting raises. A process that cannot join records in its own memory.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import time
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Final

from wsgi_prom.client import patch
from wsgi_prom.errors import DirectoryError, SettingError
from wsgi_prom.exporter.process.launch import exporter_environment, launch
from wsgi_prom.exporter.target import Target
from wsgi_prom.hooks import instance, logs
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory, directory_names, entry, environment, joined_role, locks
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.shared_directory import shared_directory
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.setting_values import Address
    from wsgi_prom.store.memory_slot import Slot

log = logging.getLogger("wsgi_prom")

# What the processes of a server are (server/members.py).
_TAKEN: Final = frozenset(
    {"worker", "master", "exporter", "supervisor", "mule", "spooler", "dirty", "daemon"}
)
_LOOK_SECONDS: Final = 1.0
_START_SECONDS: Final = 4.0
_LONGEST_PAUSE_SECONDS: Final = 300.0
# After so many looks at a server that has no exporter, this is told.
_UNSERVED_LOOKS: Final = 5


def join(role: str = "task", *, name: str | None = None, serve: bool = False) -> None:
    """
    Have this process, and those that it forks, record with the processes of a server, from now on.

    The directory is that of the server that the process runs below, `PROMETHEUS_MULTIPROC_DIR`, or that of *name*, by default
    the setting `WSGI_PROM_NAME`, which the server has too. *role* is a label of its figures. With *serve* a thread starts an
    exporter whenever there is neither one nor a server. The exporter ends with this process, or when a server starts its own.
    Does nothing the second time, and in a server's own processes. Call it before threads record. Raises SettingError for a
    wrong argument or setting.
    """
    check_role(role)
    settings = Settings.read(name=name)
    if instance.in_server or _in_uwsgi():
        return
    if joined_role.current is not None:
        current_slot.prepare()  # in a child that was forked since
        return
    logs.install()
    shared = shared_directory()
    path = shared or (settings.name and directory_names.directory_of(settings.name)) or None
    if path is None:
        warn_once(
            "the metrics of this process are on no page, since it has found no other to join. Set WSGI_PROM_NAME to the same name for it "
            f"and for the server, or {environment.VARIABLE} to the same directory"
        )
        return
    if shared and settings.name and directory_names.name_of(shared) != settings.name:
        warn_once(
            f"the name {settings.name} is not used: this process joins those of {shared}, which its environment names"
        )
    joined_role.current = _WatchedRole(role)
    with instance.attempt("this process records for itself alone"):
        patch.install()
        _enter(path, joined_role.current)
        atexit.register(_leave, path)
        if serve:
            _begin_to_serve(path, settings)
        elif not environment.is_of_run():  # `wsgi-prom run` has looked, for all processes of its program
            warn_of_unserved(path)


def _in_uwsgi() -> bool:
    """Return whether this is a process of a uWSGI that has our hook: each of its interpreters has modules of its own."""
    if environment.announced() is None:
        return False
    try:
        import uwsgi  # noqa: PLC0415 - only there in such a process
    except ImportError:
        return False
    return hasattr(uwsgi, "masterpid")


def check_role(role: str) -> None:
    """Raise SettingError unless a process can join as *role*."""
    if not joined_role.PATTERN.fullmatch(role) or role in _TAKEN:
        raise SettingError(
            f"role={role!r} is not a name of up to 32 letters, digits, - and _, other than {', '.join(sorted(_TAKEN))}."
        )


class _Watch:
    """A thread that looks at the slot once a second, in each process that has joined and holds one."""

    def __init__(self) -> None:
        self._pid = 0  # the process that has the thread
        self._checking = _thread.allocate_lock()

    def begin(self) -> None:
        """Start the thread unless this process has it."""
        if self._pid != os.getpid():
            # The parent's thread may have held the former.
            self._pid, self._checking = os.getpid(), _thread.allocate_lock()
            # A plain thread: nobody waits for its start, nor for its end.
            with suppress(RuntimeError):
                _thread.start_new_thread(self._run, (self._checking, time.sleep))

    def _run(self, checking: _thread.LockType, sleep: Callable[[float], None]) -> None:
        # Both as they were at its start: gevent may replace time.sleep later.
        while self._pid == os.getpid() and joined_role.current is not None:
            with checking:
                if self._pid == os.getpid():
                    current_slot.check()
            sleep(_LOOK_SECONDS)

    def end(self) -> None:
        """Look no more: that would make a directory again that this process is about to remove."""
        if self._pid == os.getpid():
            with self._checking:
                self._pid = -1


_watch: Final = _Watch()


class _WatchedRole(joined_role.JoinedRole):
    """A role, whose processes look at their slots."""

    def bind(self, slot: Slot, *, keep: bool) -> None:
        super().bind(slot, keep=keep)
        _watch.begin()


def _enter(path: Path, role: joined_role.JoinedRole) -> None:
    """Claim a slot in *path*, where no other process is about to remove the directory."""
    current_slot.attach(path)
    current_slot.add(role)
    current_slot.prepare()
    with suppress(DirectoryError):  # the current slot has logged that, and tries again
        entry.enter(path, lambda _: current_slot.check())


def warn_of_unserved(path: Path) -> None:
    """
    Log that nobody shows the metrics in the directory of a name, *path*: it is misspelt, or the server has another user.

    Does nothing for another directory, nor for one that cannot be used: of that the current slot tells. Never raises.
    """
    if not directory_names.is_named(path):
        return
    with suppress(OSError, DirectoryError):
        lock_file = LockFile.of(path) if path.exists() else None
        if lock_file is None or (not lock_file.has_servers() and lock_file.holder(locks.EXPORTER) is None):
            warn_once(
                f"no server or exporter of this user (uid {os.geteuid()}) uses the name {directory_names.name_of(path)}: the "
                "metrics of this process are on no page until one does. If one runs, compare its WSGI_PROM_NAME and its user"
            )


def _begin_to_serve(path: Path, settings: Settings) -> None:
    if settings.bind is None:
        warn_once(
            "join(serve=True) starts no exporter, since WSGI_PROM_BIND is off; set it to an address, or leave out serve=True"
        )
        return
    arguments = path, settings.bind, settings.app or settings.name or ""
    Thread(target=_serve, args=arguments, name="wsgi_prom exporter", daemon=True).start()


def _serve(path: Path, address: Address, application: str) -> None:
    """
    Start an exporter whenever the directory *path* has neither one nor a server: at once, when one has ended, and when it was
    killed.
    """
    # An application may change its environment later.
    environ = exporter_environment()
    problem, pause, unserved = "", _LOOK_SECONDS, 0
    while True:
        try:
            lock_file = LockFile.of(path)
            if lock_file.holder(locks.EXPORTER) is not None:
                problem, pause, unserved = "", _LOOK_SECONDS, 0
            elif not lock_file.has_servers():
                launch(path, address, target=Target(application), environ=environ)
                # Longer than it takes to come up. One that ends at once, which says why, is started less and less often.
                time.sleep(_START_SECONDS)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:  # one that starts has none yet
                unserved += 1
                if unserved == _UNSERVED_LOOKS:
                    warn_once(
                        "nobody serves the metrics: the server that this process has joined has no exporter, and join(serve=True) "
                        "starts one only where there is no server. Set WSGI_PROM_BIND of the server to an address, or run `wsgi-prom serve`"
                    )
        except Exception as error:
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            if problem != (problem := f"{type(error).__name__}: {error}"):
                log.error("no exporter: %s", problem)
        time.sleep(pause)


def _leave(path: Path) -> None:
    """Remove the directory of a name that no other process uses."""
    _watch.end()
    if directory_names.is_named(path):
        with instance.attempt(f"{path} stays there"), suppress(FileNotFoundError):
            directory.discard(path, LockFile.of(path))
