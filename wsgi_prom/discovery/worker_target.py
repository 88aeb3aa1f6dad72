"""
A worker's own page, with WSGI_PROM_TARGETS=workers: what a scrape of this process alone would show, at a port of its own.

1. It is served in a thread, which is started after the fork and ends with the worker. Nothing waits for it.
2. A worker never fails because of it: without a free port the worker serves no page, and tries again.
3. A process that the worker forks keeps neither the port nor a connection.
4. A page that fails leaves neither descriptors nor threads nor locks behind, and another one takes its place.
"""

from __future__ import annotations

import _thread
import logging
import os
import time
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import Counter, ProcessCollector

from wsgi_prom import metrics
from wsgi_prom.setting_values import Address
from wsgi_prom.store.worker_ports import WorkerPort, own_slot
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.exporter.http.listening import Listening
    from wsgi_prom.exporter.target import Target
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

_TICK_SECONDS: Final = 1.0
# Until a port is asked for again: another worker, or another program, may have left one.
_RETRY_SECONDS: Final = 5.0
# One or two Prometheus servers, and somebody with curl. Each connection is a descriptor of the application's.
_CONNECTIONS: Final = 16
_STAGE: Final = "target"


class WorkerTarget:
    """The page of this process, if it is a worker that is to have one. Configured in the server's master."""

    def __init__(self) -> None:
        # How a thread is started. Not threading.Thread, whose start waits for the thread.
        self.start_thread: Callable[[Callable[[], None]], object] = lambda run: _thread.start_new_thread(
            run, ()
        )
        # A server whose Python threads do not run between requests says what to do about it.
        self.remedy = ""
        self._configured: tuple[Settings, Target] | None = None
        self._pid = 0
        self._listening: Listening | None = None
        self._server: Any = None
        self._watches_forks = False

    def configure(self, settings: Settings, target: Target) -> None:
        """Say what workers that are forked from now on serve, if anything. Imports what they need."""
        self._configured = None
        if settings.targets == "workers":
            # Workers that drop to another user may not be able to read these modules.
            import_module("wsgi_prom.exporter.http.server")
            import_module("wsgi_prom.exporter.http.listening")
            import_module("wsgi_prom.exporter.app")
            self._configured = settings, target

    def begin(self) -> None:
        """Serve the page of this worker, unless it does so already. Raises RuntimeError if there is no thread for it."""
        if self._configured is None or self._pid == os.getpid():
            return
        if self.remedy:
            warn_once(self.remedy)
            return
        self._pid = os.getpid()
        if not self._watches_forks:
            self._watches_forks = True
            os.register_at_fork(after_in_child=self._close_in_child)
        self.start_thread(self._run)

    def _run(self) -> None:
        while self._configured is not None and self._pid == os.getpid():
            try:
                self._serve(*self._configured)
            except Exception as error:
                warn_once(
                    f"a worker has no page of its own: {error}. It tries again every {_RETRY_SECONDS:g} s"
                )
                _failures().inc()
                self._end()
                time.sleep(_RETRY_SECONDS)

    def _serve(self, settings: Settings, target: Target) -> None:
        from wsgi_prom.exporter.app import ExporterApp, MetricsApp
        from wsgi_prom.exporter.http.server import make_server

        metrics_app = MetricsApp(settings=settings, target=target, own=True)
        app = ExporterApp(metrics_app, collectors=[ProcessCollector(registry=None).collect])
        self._listening = listening = self._listen(settings)
        self._server = server = make_server(
            app, listening.socket, metrics_app.access, _CONNECTIONS, threads=1
        )
        port, told = WorkerPort(listening.socket.getsockname()[1]), float("-inf")
        try:
            while self._pid == os.getpid():
                if time.monotonic() - told >= _TICK_SECONDS:
                    told = time.monotonic()
                    self._tell(port)
                server.asyncore.loop(timeout=_TICK_SECONDS, map=server._map, use_poll=True, count=1)
                if not server.accepting:
                    # waitress does so after an error that it takes for fatal, and when somebody has closed the descriptor.
                    raise RuntimeError("waitress has closed its listener")
        finally:
            port.release()

    def _end(self) -> None:
        """Close what the page of this process had, and end its thread. Call it in the thread that served it."""
        listening, self._listening = self._listening, None
        server, self._server = self._server, None
        if server is not None:
            server.task_dispatcher.shutdown()
            for channel in list(server.active_channels.values()):
                channel.handle_close()
            # A thread that still answers would write to the trigger's descriptor, which another file may have by then.
            if not server.task_dispatcher.threads:
                server.close()
        if listening is not None:
            listening.close()

    def _close_in_child(self) -> None:
        """Close the descriptors that a forked child has of its parent's page. No locks: threads of the parent may hold them."""
        listening, self._listening = self._listening, None
        server, self._server = self._server, None
        if server is not None:
            for channel in list(server.active_channels.values()):
                if channel.socket is not None:
                    channel.socket.close()
            server.trigger.close()
        if listening is not None:
            listening.close()

    def _tell(self, port: WorkerPort) -> None:
        slot = own_slot()
        if slot is not None:
            try:
                port.tell(*slot)
            except Exception:  # the directory is gone, or no descriptor is left
                log.debug("the port of worker %d is not told", os.getpid(), exc_info=True)

    def _listen(self, settings: Settings) -> Listening:
        """Return a socket that listens on a port for the slot of this worker, as soon as there is one. Raises OSError without a free port."""
        from wsgi_prom.exporter.http.listening import AddressInUseError, Listening

        host = settings.bind.host if settings.bind else ""
        while True:
            slot = own_slot()
            if slot is None:
                time.sleep(_TICK_SECONDS)
                continue
            for port in _ports(settings.targets_ports, slot[1]):
                try:
                    return Listening(Address(host, port))
                except AddressInUseError as error:
                    problem = error.__cause__
            if settings.targets_ports is None:
                raise OSError(problem)
            given = "-".join(map(str, settings.targets_ports))
            raise OSError(
                f"no port of WSGI_PROM_TARGETS_PORTS={given!r} is free. Give twice as many as there are workers, for reloads"
            )


def _ports(ports: tuple[int, int] | None, slot: int) -> Iterator[int]:
    """Yield the ports that a worker in *slot* tries: the one that its slot always has, then the others."""
    if ports is None:
        yield 0
        return
    first, last = ports
    number = last - first + 1
    for n in range(number):
        yield first + (slot + n) % number


@cache
def _failures() -> Any:
    # In no registry: the user's is not ours.
    return Counter(*metrics.ERRORS, ["stage"], registry=None).labels(_STAGE)


worker_target: Final = WorkerTarget()
