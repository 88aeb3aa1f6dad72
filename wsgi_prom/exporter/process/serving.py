"""
The serving process: answers scrapes until SIGTERM, or until its supervisor dies, whose place it then takes.

1. The main thread runs waitress' loop, one turn at a time. Between two turns, at least once a second, it looks at the rest.
2. Signals are blocked except during the loop, so that none is lost, and a pending one passes through an exec.
3. If the supervisor dies, this process finishes the requests that have begun, and executes its own command again with the
   listening socket and the exporter lock: it becomes a supervisor, which forks a serving process. Clients that connect
   meanwhile wait in the backlog. (Linux before 5.11 drops the lock at the exec of a process with threads: another exporter that
   is started in these 0.3 s takes over.)
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from wsgi_prom.exporter.process.supervisor import END_SIGNALS
from wsgi_prom.merge.archiving import Archiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.exporter.http.listening import Listening
    from wsgi_prom.exporter.process.lock import ExporterLock
    from wsgi_prom.exporter.process.watch import MasterWatch

log = logging.getLogger("wsgi_prom")

# A page of a uWSGI with 32 workers has 3,000 objects that live until the next one. With Python's 700, each page set off four
# collections, which took 2 ms, and every fortieth or so a full one of 40 ms. Cycles are few: they are collected when there are
# so many.
COLLECT_AFTER: Final = 10_000

# Between two looks at the lock, of which a scrape would cause several (0.1 ms each); the longest turn of the loop; between two
# looks for files of ended processes.
_KEEP_SECONDS: Final = 1.0
_TURN_SECONDS: Final = 1.0
_ARCHIVE_SECONDS: Final = 1.0
# How long requests that have begun may take until the process ends or becomes the supervisor.
_FINISH_SECONDS: Final = 2.0


class Announcement(Protocol):
    """Keeps it known elsewhere where the page of a serving process is."""

    def keep(self) -> None:
        """Make it known, if it is not. Called once a second."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics about it. For any number of threads."""

    def end(self, *, replaced: bool) -> None:
        """Take it back at the end of this process, unless it is *replaced* by another that tells the same."""


class ServingProcess:
    """
    Answers scrapes with *server*, a waitress server of its own copy of the *listening* socket.

    *files* are the `loaded_files` of when the exporter started. *supervisor* is the pid of its parent, and *master* the
    server's master. Without them it serves until SIGTERM or SIGINT. *announcement* is kept meanwhile. Make it with
    `END_SIGNALS` blocked: a thread that took a signal would not wake the main one.
    """

    def __init__(
        self,
        lock: ExporterLock,
        listening: Listening,
        server: Any,
        files: dict[str, tuple[int, int]],
        supervisor: int | None,
        master: MasterWatch | None,
        announcement: Announcement | None,
    ) -> None:
        self._announcement = announcement
        self._lock = lock
        self._listening = listening
        self._server = server
        self._files = files
        self._supervisor = supervisor
        self._master = master
        self._told_to_end = False

    def run(self) -> None:
        """Serve until this process is told to end. Call it in the main thread; `END_SIGNALS` are blocked when it returns."""
        gc.set_threshold(COLLECT_AFTER)
        for number in END_SIGNALS:
            signal.signal(number, self._end)
        threading.Thread(target=_archive_ended, args=(self._lock.path,), daemon=True).start()
        self._serve(self._is_orphan)
        if self._is_orphan() and self._master is not None and not self._told_to_end:
            self._become_supervisor()
            # This process could not become the supervisor: it serves on without one.
            self._serve(self._master.ended)
        self._stop_listening()
        self._finish_requests()

    def _is_orphan(self) -> bool:
        return self._supervisor is not None and os.getppid() != self._supervisor

    def _end(self, *_: object) -> None:
        self._told_to_end = True
        self._server.pull_trigger()

    def _serve(self, is_over: Callable[[], bool]) -> None:
        """Serve until this process is told to end, or *is_over* says so."""
        kept = float("-inf")
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
            while not (self._told_to_end or is_over()):
                if time.monotonic() - kept >= _KEEP_SECONDS:
                    self._lock.keep()
                    if self._announcement is not None:
                        self._announcement.keep()
                    kept = time.monotonic()
                self._turn(_TURN_SECONDS)
                if not self._server.accepting:
                    # Waitress closes its listener after an error that it takes for fatal.
                    raise RuntimeError("waitress has closed its listener")
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)

    def _turn(self, seconds: float) -> None:
        """Handle the events that are there, or the first that comes within *seconds*."""
        self._server.asyncore.loop(timeout=seconds, map=self._server._map, use_poll=True, count=1)

    def _stop_listening(self) -> None:
        """Accept the clients that have connected by now, then let another exporter have the address and the lock."""
        self._server.handle_accept()
        self._server.del_channel(self._server._map)
        self._server.socket.close()
        self._listening.close()
        replaced = self._lock.superseded()
        self._lock.release()
        if self._announcement is not None:
            self._announcement.end(replaced=replaced)

    def _finish_requests(self) -> None:
        """Answer the requests that have begun, for a bounded time, and accept no more connections."""
        self._server.accepting = False
        deadline = time.monotonic() + _FINISH_SECONDS
        channels = self._server.active_channels
        while any(map(_is_busy, channels.values())) and (left := deadline - time.monotonic()) > 0:
            self._turn(left)

    def _become_supervisor(self) -> None:
        """Execute this process's command again, as a supervisor. Returns only if the command's files have changed."""
        log.warning("the exporter's supervisor has died; pid %d becomes the supervisor", os.getpid())
        if not self._files.items() <= loaded_files().items():
            log.error(
                "the exporter cannot be executed again, since its modules have been replaced or removed. It serves on, but nothing "
                "restarts it after another kill. Restart the server"
            )
            return
        self._finish_requests()
        socket = self._listening.socket.fileno()
        os.set_inheritable(socket, True)
        self._lock.keep_at_exec()
        words = sys.orig_argv
        if "--socket" in words:
            words = words[: words.index("--socket")]
        os.execv(sys.executable, [*words, "--socket", str(socket)])


def loaded_files() -> dict[str, tuple[int, int]]:
    """Return inode and time of change of each file that this program was loaded from, and that is still there."""
    found = {}
    for path in [sys.executable, *(getattr(module, "__file__", None) for module in sys.modules.values())]:
        with suppress(OSError):
            status = Path(path or "").stat()
            found[str(path)] = status.st_ino, status.st_mtime_ns
    return found


def _is_busy(channel: Any) -> bool:
    connected_just_now = channel.last_activity == channel.creation_time
    return bool(channel.requests or channel.request or channel.total_outbufs_len or connected_just_now)


def _archive_ended(path: Path) -> None:
    # In a thread, since it reads all files of ended processes.
    archiver = Archiver(path)
    while True:
        archiver.archive_ended()
        time.sleep(_ARCHIVE_SECONDS)
