"""
The exporter: answers scrapes beside the server, and ends with it.

Started by a server's hook it is a pair of processes (guard.py). Started by hand it is one, which is for systemd or
attach-daemon to start again.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from wsgi_prom.errors import SettingError
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.exporter.http import listener
from wsgi_prom.exporter.http.listener import Listening
from wsgi_prom.exporter.process.answers import ENDS, answer
from wsgi_prom.exporter.process.guard import Guard
from wsgi_prom.exporter.process.life import Life
from wsgi_prom.exporter.process.place import Place
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory, locks

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
    settings: Settings | None = None,
    target: Target | None = None,
) -> None:
    """
    Serve the metrics of *path*, which are those of *target*, on *address*, until SIGTERM or the end of the process *parent*.

    Returns at once if the directory has an exporter already, unless it is to *replace* that one, and if *launch*, the number
    that its server gave it, is not that of the last one. With *parent* it forks,
    and waits for an address that it cannot have yet; a directory that was made for that server is removed when it is gone;
    returns at once if it is so already. Call it in the main thread, as the only one. Raises SettingError, DirectoryError,
    AddressInUseError.
    """
    if parent is not None and _left(path, parent):
        return
    settings = settings or Settings()
    place = Place(path, directory.prepare(path), launch)
    try:
        metrics = MetricsApp(path, settings=settings, target=target)
        app, admission = ExporterApp(metrics), listener.Admission(metrics.access)
    except SettingError:
        if replace:
            # As at a start: who asked for a token must not have a page that goes on without.
            place.take_over()
        raise
    if not (place.take_over() if replace else place.take()):
        if not place.superseded():
            _log_other(place, replace=replace)
        return

    def listen() -> Listening:
        listening = Listening(address, settings.socket_mode)
        listener.warn(listening.socket, settings, metrics.access)
        log.info("metrics at %s (of the directory %s)", listening.url(admission.scheme), path)
        return listening

    def server(listening: Listening) -> Any:
        return listener.server(app, listening.socket.dup(), admission)

    if parent is None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        answer(place, listen(), server)
        return
    Guard(place, listen, server, parent).run()


def _log_other(place: Place, *, replace: bool) -> None:
    pid = place.lock_file.holder(locks.EXPORTER)
    if replace:
        log.warning(
            "the exporter of %s (pid %s) cannot be replaced: it runs as another user or in another pid namespace, "
            "and goes on with the settings that it has. Restart it",
            place.path, pid or "unknown",
        )  # fmt: skip
    else:
        log.info("%s has an exporter already, pid %s", place.path, pid)


def _left(path: Path, parent: int) -> bool:
    """Tell whether the server *parent* has left before this came up: one whose application cannot be imported."""
    server = Life(parent)
    over = server.over()
    server.close()
    return over and directory.temporary(path) and not os.path.lexists(path)
