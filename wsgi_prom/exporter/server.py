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
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from waitress.server import create_server

from wsgi_prom.errors import WsgiPromError
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.storage import directory, locks

if TYPE_CHECKING:
    from wsgi_prom.settings import Address
    from wsgi_prom.storage.locks import Locks

log = logging.getLogger("wsgi_prom")

_POLL_SECONDS: Final = 0.5

# A scrape is a short request without a body, by one or two clients. Waitress reads in one loop and keeps slow
# clients in buffers, so that two threads suffice.
_LIMITS: Final[dict[str, Any]] = {
    "threads": 2,
    "channel_timeout": 10,
    "cleanup_interval": 5,
    "max_request_header_size": 16384,
    "max_request_body_size": 16384,
    "ident": None,
}


class AddressInUseError(WsgiPromError):
    """The exporter cannot listen where it was told to."""


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
    server = _listen(ExporterApp(MetricsApp(path)), address)
    log.info("metrics at %s", _url(server, address))
    signal.signal(signal.SIGTERM, _end)
    if parent is not None:
        threading.Thread(target=_end_with, args=(lock_file, parent), daemon=True).start()
    try:
        server.run()
    finally:
        server.close()
        if parent is not None:
            directory.discard(path, lock_file)


def _listen(app: ExporterApp, address: Address) -> Any:
    logging.getLogger("waitress").setLevel(logging.ERROR)
    try:
        if address.path:
            _check_unused(address.path)
            return create_server(app, unix_socket=address.path, unix_socket_perms="600", **_LIMITS)
        return create_server(app, listen=str(address), **_LIMITS)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise AddressInUseError(
            f"no exporter: cannot listen on WSGI_PROM_BIND={str(address)!r}: {reason}. The application is served "
            "without. Set WSGI_PROM_BIND to an address of this server's own, or to off."
        ) from error


def _check_unused(path: str) -> None:
    # Waitress removes a socket that it finds, also one that another server answers on.
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(f"{path} is answered by another process")


def _url(server: Any, address: Address) -> str:
    if address.path:
        return f"unix:{address.path}"
    host, port = getattr(server, "effective_listen", [(server.effective_host, server.effective_port)])[0]
    return f"http://[{host}]:{port}/metrics" if ":" in str(host) else f"http://{host}:{port}/metrics"


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
