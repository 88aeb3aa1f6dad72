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

from wsgi_prom.exporter import listener
from wsgi_prom.exporter.answers import ENDS, answer
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.exporter.guard import Guard
from wsgi_prom.exporter.life import Life
from wsgi_prom.exporter.place import Place
from wsgi_prom.settings import Settings
from wsgi_prom.storage import directory, locks

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.settings import Address

log = logging.getLogger("wsgi_prom")


def serve(
    path: Path, address: Address, *, parent: int | None = None, settings: Settings | None = None
) -> None:
    """
    Serve the metrics of *path* on *address*, until SIGTERM or the end of the process *parent*.

    Returns at once if the directory has an exporter already. With *parent* it forks, and a directory that was made for that
    server is removed when it is gone; returns at once if it is so already. Call it in the main thread, as the only one.
    Raises SettingError, DirectoryError, AddressInUseError.
    """
    if parent is not None and _left(path, parent):
        return
    settings = settings or Settings()
    metrics = MetricsApp(path, settings=settings)
    app, door = ExporterApp(metrics), listener.Door(settings, metrics.access)
    place = Place(path, directory.prepare(path))
    if not place.take():
        log.info("%s has an exporter already, pid %s", path, place.lock_file.holder(locks.EXPORTER))
        return
    listening = listener.bind(address, settings.socket_mode)
    listener.warn(listening, settings)
    log.info("metrics at %s", listener.url(listening, door.scheme))

    def server() -> Any:
        return listener.server(app, listening.dup(), door)

    if parent is None:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        answer(place, server)
        return
    Guard(place, server, parent).run()


def _left(path: Path, parent: int) -> bool:
    """Tell whether the server *parent* has left before this came up: one whose application cannot be imported."""
    server = Life(parent)
    over = server.over()
    server.close()
    return over and directory.temporary(path) and not os.path.lexists(path)
