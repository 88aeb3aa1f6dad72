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
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.exporter.http.listening import Listening
from wsgi_prom.exporter.http.server import allowed_connections, make_server, scheme
from wsgi_prom.exporter.process.lock import ExporterLock
from wsgi_prom.exporter.process.serving import ServingProcess, loaded_files
from wsgi_prom.exporter.process.supervisor import END_SIGNALS, Supervisor
from wsgi_prom.exporter.process.watch import MasterWatch, exists
from wsgi_prom.store import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wsgi_prom.exporter.process.serving import Announcement
    from wsgi_prom.exporter.target import Target
    from wsgi_prom.setting_values import Address
    from wsgi_prom.settings import Settings

    # Takes the scheme, and the host and port of the page. Returns what is kept meanwhile, and more pages by path.
    Announce = Callable[
        [str, tuple[str, int]], tuple[Announcement | None, Mapping[str, Callable[[], object]]]
    ]

log = logging.getLogger("wsgi_prom")


def serve(
    path: Path,
    address: Address,
    settings: Settings,
    target: Target,
    *,
    parent: int | None = None,
    replace: bool = False,
    launch: int | None = None,
    inherited: int | None = None,
    announce: Announce | None = None,
) -> None:
    """
    Serve the metrics of the directory *path*, which are those of *target*, on *address*, until SIGTERM or SIGINT.

    Returns at once if the directory has an exporter already, unless it is to *replace* that one, and if the server has since
    started another *launch*. With *parent*, the pid of the server's master, the exporter is supervised, waits for an address
    that is in use, and ends with the server, whose directory it then removes. *inherited* is the descriptor of a socket that
    listens on *address*, in a process that holds the exporter lock. *announce* is called in the serving process, with the
    scheme and the address of its page. Call it in the main thread, as the only one. Raises SettingError, DirectoryError,
    AddressInUseError.
    """
    if parent is not None and _left_nothing(path, parent):
        return
    with _lock(path, launch, by_hand=parent is None) as lock:
        try:
            metrics = MetricsApp(lock.path, settings=settings, target=target)
        except SettingError:
            if replace:
                # As at a start: a page for which a token was configured must not go on without one.
                lock.take_over()
            raise
        take = lock.take_over if replace else lock.take
        # The program that this process was before held the lock, unless the kernel dropped it at the exec.
        if take() if inherited is None else lock.share():
            _run(lock, metrics, address, settings.socket_mode, parent, inherited, announce)
        elif not lock.superseded():
            _log_other(lock, replace=replace and inherited is None)


def _lock(path: Path, launch: int | None, *, by_hand: bool) -> AbstractContextManager[ExporterLock]:
    """Return what gives the exporter lock of *path*. One that was started *by_hand* keeps the directory, and blocks END_SIGNALS."""
    if by_hand:
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        return ExporterLock.keeping_directory(path, launch)
    return nullcontext(ExporterLock(path, directory.prepare(path), launch))


def _run(
    lock: ExporterLock,
    metrics: MetricsApp,
    address: Address,
    mode: int,
    parent: int | None,
    inherited: int | None,
    announce: Announce | None,
) -> None:
    """Serve *metrics* in the process that holds *lock*."""
    access, connections, files = metrics.access, allowed_connections(), loaded_files()

    def listen() -> Listening:
        listening = Listening(address, mode)
        if listening.socket.family != socket.AF_UNIX:
            access.log_who_can_read(*listening.socket.getsockname()[:2])
        log.info("metrics at %s (of the directory %s)", listening.url(scheme(access)), lock.path)
        return listening

    def prepare(
        listening: Listening, supervisor: int | None = None, master: MasterWatch | None = None
    ) -> Callable[[], None]:
        metrics.watch_server()
        announcement = pages = None
        if announce is not None and listening.socket.family != socket.AF_UNIX:
            announcement, pages = announce(scheme(access), listening.socket.getsockname()[:2])
        collectors = [announcement.collect] if announcement else []
        server = make_server(
            ExporterApp(metrics, pages, collectors), listening.socket.dup(), access, connections
        )
        return ServingProcess(lock, listening, server, files, supervisor, master, announcement).run

    if parent is None:
        prepare(listen())()
        return
    master = MasterWatch(parent, lock.servers)
    prepare_child = partial(prepare, supervisor=os.getpid(), master=master)
    listening = None if inherited is None else Listening(address, inherited=inherited)
    Supervisor(lock, master, listen, prepare_child).run(listening)


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
    return not exists(parent) and directory.is_temporary(path) and not os.path.lexists(path)
