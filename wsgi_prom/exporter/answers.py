"""The process of the exporter that answers scrapes: waitress, until it is told to end or its guard is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter import listener
from wsgi_prom.exporter.app import ExporterApp, MetricsApp
from wsgi_prom.exporter.life import Life, wait

if TYPE_CHECKING:
    import socket

    from wsgi_prom.exporter.place import Place

# Blocked by the caller: what comes before there is a handler, or while connections are closed, is kept for later.
ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

_KEEP_SECONDS: Final = 1.0
# Waitress gives the scrapes in its threads 5 s.
_JOIN_SECONDS: Final = 5.0


def answer(place: Place, listening: socket.socket, guard: int | None = None) -> bool:
    """
    Answer scrapes on *listening* until SIGTERM or SIGINT, or the end of the process *guard*, which is the parent.

    Returns whether it was the latter: *listening* is open, all connections are closed, all threads have ended. Call it
    in the main thread, with `ENDS` blocked, as they are when it returns.
    """
    alone = False

    def end(*_: object) -> None:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    def go_on_alone(*_: object) -> None:
        nonlocal alone
        if os.getppid() != guard:  # not so if it is a signal from elsewhere
            alone = True
            raise SystemExit(0)

    place.keep()
    server = listener.server(ExporterApp(MetricsApp(place.path)), listening.dup())
    for number in ENDS:
        signal.signal(number, end)
    if guard is not None:
        signal.signal(signal.SIGUSR1, go_on_alone)
    # With the caller's mask: a thread that took a signal would leave the main one asleep.
    watch = threading.Thread(target=_watch, args=(place, guard), daemon=True)
    watch.start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        server.run()
    except SystemExit:
        pass  # not in waitress's loop, which returns
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        _close(server)
    if alone:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        _join()
    return alone


def _watch(place: Place, guard: int | None) -> None:
    # A pidfd for speed; whose child this process is, is what counts.
    life = None if guard is None else Life(guard)
    descriptors = [] if life is None or life.fd is None else [life.fd]
    while guard is None or os.getppid() == guard:
        place.keep()
        wait(descriptors, _KEEP_SECONDS)
    if life is not None:
        life.close()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def _close(server: Any) -> None:
    for channel in list(server.active_channels.values()):
        channel.handle_close()
    server.close()


def _join() -> None:
    # One that hangs longer is of no harm to a guard; a forked child has only the thread that forked it.
    deadline = time.monotonic() + _JOIN_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(max(deadline - time.monotonic(), 0))
