"""
The serving process: answers scrapes until SIGTERM, or until its supervisor dies, whose place it then takes.

1. Waitress' loop runs in the main thread, one turn at a time; whatever concerns the loop happens between two turns.
2. Signals are blocked but during the loop, so that one that comes earlier or later is kept: at an exec for the next program.
3. If the supervisor dies, this process finishes the requests that have begun, and executes its own command again with the
   listening socket and the exporter lock: it becomes a supervisor, which forks a serving process. Clients that connect
   meanwhile wait in the backlog. (Linux before 5.11 drops the lock at the exec of a process with threads: another exporter that
   is started in these 0.3 s takes over.)
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.process.supervisor import END_SIGNALS
from wsgi_prom.merge.folding import Folding

if TYPE_CHECKING:
    from wsgi_prom.exporter.http.listening import Listening
    from wsgi_prom.exporter.process.lock import ExporterLock
    from wsgi_prom.exporter.process.watch import MasterWatch, ProcessWatch

log = logging.getLogger("wsgi_prom")

_KEEP_SECONDS: Final = 1.0
# How long requests that have begun may take until the process ends or becomes the supervisor.
_FINISH_SECONDS: Final = 2.0


class ServingProcess:
    """
    Answers scrapes with *server*, a waitress server of its own copy of the *listening* socket.

    *files* are the `loaded_files` of when the exporter started. Without a *supervisor*, and so without a *master*, it serves
    until SIGTERM or SIGINT. Make it with `END_SIGNALS` blocked: a thread that took a signal would not wake the main one.
    """

    def __init__(
        self,
        lock: ExporterLock,
        listening: Listening,
        server: Any,
        files: dict[str, tuple[int, int]],
        supervisor: ProcessWatch | None = None,
        master: MasterWatch | None = None,
    ) -> None:
        self._lock = lock
        self._listening = listening
        self._server = server
        # The process at whose end this one stops serving.
        self._watched: ProcessWatch | MasterWatch | None = supervisor
        self._master = master
        self._told_to_end = False
        self._files = files

    def run(self) -> None:
        """Serve until this process is told to end. Call it in the main thread; `END_SIGNALS` are blocked when it returns."""
        for number in END_SIGNALS:
            signal.signal(number, self._end)
        threading.Thread(target=_fold, args=(self._lock.path,), daemon=True).start()
        self._serve()
        if not self._told_to_end and self._watched is not self._master:
            self._become_supervisor()
            self._watched = self._master
            self._serve()
        self._stop_listening()
        self._finish_requests()

    def _end(self, *_: object) -> None:
        self._told_to_end = True
        self._server.pull_trigger()

    def _serve(self) -> None:
        """Serve until this process is told to end, or the watched one has ended."""
        watched = self._watched
        if watched is not None and watched.fd is not None:
            # Wakes the loop when it becomes readable.
            self._server._map[watched.fd] = SimpleNamespace(
                readable=lambda: True, writable=lambda: False, handle_read_event=lambda: None
            )
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
            while not (self._told_to_end or (watched and watched.ended())):
                self._lock.keep()
                self._turn(_KEEP_SECONDS)
                if not self._server.accepting:
                    # Waitress closes its listener after an error that it takes for fatal.
                    raise RuntimeError("waitress has closed its listener")
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
            if watched is not None and watched.fd is not None:
                self._server._map.pop(watched.fd, None)

    def _turn(self, seconds: float) -> None:
        """Handle the events that are there, or the first that comes within *seconds*."""
        self._server.asyncore.loop(timeout=seconds, map=self._server._map, use_poll=True, count=1)

    def _stop_listening(self) -> None:
        """Accept the clients that have connected by now, then let another exporter have the address and the lock."""
        self._server.handle_accept()
        self._server.del_channel(self._server._map)
        self._server.socket.close()
        self._listening.close()
        self._lock.release()

    def _finish_requests(self) -> None:
        """Answer the requests that have begun, for a bounded time, and accept no more connections."""
        self._server.accepting = False
        deadline = time.monotonic() + _FINISH_SECONDS
        while any(map(_is_busy, self._server.active_channels.values())):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._turn(left)

    def _become_supervisor(self) -> None:
        """Execute this process's command again, as a supervisor. Returns only if it cannot be executed as it was."""
        log.warning("the exporter's supervisor has died; pid %d becomes the supervisor", os.getpid())
        if not self._files.items() <= loaded_files().items():
            log.error(
                "the exporter cannot be executed again, since its modules have been replaced or removed. It serves on, but does "
                "not come back after another kill. Restart the server"
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
    """Return the state of each file that this program was loaded from, and is still there."""
    found = {}
    for path in {
        sys.executable,
        *(getattr(module, "__file__", None) or "" for module in sys.modules.values()),
    }:
        with suppress(OSError):
            status = Path(path).stat()
            found[path] = status.st_ino, status.st_mtime_ns
    return found


def _is_busy(channel: Any) -> bool:
    # The last: connected, and nothing heard yet.
    return bool(
        channel.requests
        or channel.request
        or channel.total_outbufs_len
        or channel.last_activity == channel.creation_time
    )


def _fold(path: Path) -> None:
    # In a thread, since it reads all files of ended processes.
    folding = Folding(path)
    while True:
        folding.fold()
        time.sleep(_KEEP_SECONDS)
