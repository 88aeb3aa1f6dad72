"""
The exporter: answers scrapes beside the server, and ends with it.

Started by a server's hook it is a supervisor and a serving process. Started by hand it is a serving process alone, which
systemd or uWSGI's attach-daemon restarts.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.exporter.http.listening import Listening
from wsgi_prom.exporter.http.server import allowed_connections, make_server, scheme
from wsgi_prom.exporter.process.lock import ExporterLock
from wsgi_prom.exporter.process.serving import ServingProcess, loaded_files
from wsgi_prom.exporter.process.supervisor import END_SIGNALS, Supervisor
from wsgi_prom.exporter.process.watch import MasterWatch, ProcessWatch
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.exporter.target import Target
    from wsgi_prom.settings import Address

log = logging.getLogger("wsgi_prom")


def serve(
    path: Path,
    address: Address,
    *,
    parent: int | None = None,
    replace: bool = False,
    launch: int | None = None,
    inherited: int | None = None,
    settings: Settings | None = None,
    target: Target | None = None,
) -> None:
    """
    Serve the metrics of the directory *path*, which are those of *target*, on *address*, until SIGTERM or SIGINT.

    Returns at once if the directory has an exporter already, unless it is to *replace* that one, and if the server has since
    started another *launch*. With *parent*, the pid of the server's master, the exporter is supervised, waits for an address
    that is in use, and ends with the server, whose directory it then removes. *inherited* is the descriptor of a socket that
    listens on *address*, in a process that holds the exporter lock. Call it in the main thread, as the only one. Raises
    SettingError, DirectoryError, AddressInUseError.
    """
    if parent is not None and _left_nothing(path, parent):
        return
    settings = settings or Settings()
    lock = ExporterLock(path, directory.prepare(path), launch)
    try:
        metrics = MetricsApp(path, settings=settings, target=target)
    except SettingError:
        if replace:
            # As at a start: a page for which a token was configured must not go on without one.
            lock.take_over()
        raise
    take = lock.take_over if replace else lock.take
    # The program that this process was before held the lock, unless the kernel dropped it at the exec.
    if not (take() if inherited is None else lock.share()):
        if not lock.superseded():
            _log_other(lock, replace=replace and inherited is None)
        return
    exporter = _Exporter(lock, metrics, address, settings.socket_mode)
    if parent is None:
        exporter.serve()
    else:
        exporter.supervise(MasterWatch(parent, lock.servers), inherited)


class _Exporter:
    """Serves *metrics* on *address* in the process that holds *lock*."""

    def __init__(self, lock: ExporterLock, metrics: MetricsApp, address: Address, socket_mode: int) -> None:
        self._lock = lock
        self._metrics = metrics
        self._address = address
        self._socket_mode = socket_mode
        self._connections = allowed_connections()
        self._files = loaded_files()

    def serve(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        self._answer(self._listen())

    def supervise(self, master: MasterWatch, inherited: int | None) -> None:
        listening = None if inherited is None else Listening(self._address, inherited=inherited)
        supervisor = ProcessWatch(os.getpid())
        Supervisor(
            self._lock, master, self._listen, lambda listening: self._answer(listening, supervisor, master)
        ).run(listening)

    def _listen(self) -> Listening:
        access = self._metrics.access
        listening = Listening(self._address, self._socket_mode)
        if listening.socket.family != socket.AF_UNIX:
            access.log_who_can_read(*listening.socket.getsockname()[:2])
        log.info("metrics at %s (of the directory %s)", listening.url(scheme(access)), self._lock.path)
        return listening

    def _answer(
        self,
        listening: Listening,
        supervisor: ProcessWatch | None = None,
        master: MasterWatch | None = None,
    ) -> None:
        app = ExporterApp(self._metrics)
        server = make_server(app, listening.socket.dup(), self._metrics.access, self._connections)
        ServingProcess(self._lock, listening, server, self._files, supervisor, master).run()


def _log_other(lock: ExporterLock, *, replace: bool) -> None:
    if replace:
        log.warning(
            "the exporter of %s (pid %s) cannot be replaced, since it runs as another user or in another pid namespace: it "
            "keeps its former settings. Restart it",
            lock.path, lock.holder() or "unknown",
        )  # fmt: skip
    else:
        log.info("%s has an exporter already, pid %s", lock.path, lock.holder())


def _left_nothing(path: Path, parent: int) -> bool:
    """Return whether the server *parent* has ended, and removed its directory, before its exporter came up."""
    master = ProcessWatch(parent)
    ended = master.ended()
    master.close()
    return ended and directory.temporary(path) and not os.path.lexists(path)
