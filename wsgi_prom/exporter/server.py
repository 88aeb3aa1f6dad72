"""
The exporter process: answers scrapes beside the server, and ends with it.
"""

# Rule 1: one exporter a directory, by the kernel's lock.
# Rule 2: it lives as long as the server that started it, or another that shares the directory (gunicorn's USR2).

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsgi_prom.exporter import listener
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.storage import directory, locks

if TYPE_CHECKING:
    from wsgi_prom.settings import Address
    from wsgi_prom.storage.locks import Locks

log = logging.getLogger("wsgi_prom")

_POLL_SECONDS: Final = 0.5


def serve(path: Path, address: Address, *, parent: int | None = None) -> None:
    """
    Serve the metrics of *path* on *address*, until SIGTERM or the end of the process *parent*.

    Returns at once if the directory has an exporter already. A directory that wsgi_prom made is removed when its
    server is gone. Call it in the main thread. Raises DirectoryError, AddressInUseError.
    """
    lock_file = directory.prepare(path)
    if not lock_file.acquire(locks.EXPORTER):
        log.info("%s has an exporter already, pid %s", path, lock_file.holder(locks.EXPORTER))
        return
    listening = listener.bind(address)
    log.info("metrics at %s", listener.url(listening))
    server = listener.server(ExporterApp(MetricsApp(path)), listening)
    signal.signal(signal.SIGTERM, _end)
    if parent is not None:
        threading.Thread(target=_end_with, args=(lock_file, parent), daemon=True).start()
    try:
        server.run()
    finally:
        server.close()
        if parent is not None:
            directory.discard(path, lock_file)


def _end(*_: object) -> None:
    raise SystemExit(0)


def _end_with(lock_file: Locks, parent: int | None) -> None:
    while parent is not None:
        _wait_for_exit(parent)
        # The next master of the same directory, if there is one: its lock tells its pid.
        holders = (lock_file.holder(byte) for byte in locks.SERVERS)
        parent = next((pid for pid in holders if pid), None)
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_exit(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):  # Linux before 5.3
        while Path(f"/proc/{pid}").exists():
            time.sleep(_POLL_SECONDS)
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll()
    finally:
        os.close(fd)
