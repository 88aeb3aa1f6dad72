"""The process of the exporter that answers scrapes: waitress, until it is told to end or its guard is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.life import Life, wait
from wsgi_prom.storage.folding import Folding

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.place import Place

# Blocked by the caller: what comes before there is a handler, or while connections are closed, is kept for later.
ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

_KEEP_SECONDS: Final = 1.0
# How long requests that have begun may take to their answer's end when the guard is gone: who connects has to wait.
_DRAIN_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.005
_JOIN_SECONDS: Final = 5.0


def answer(place: Place, make: Callable[[], Any], guard: int | None = None) -> bool:
    """
    Answer scrapes with the server that *make* returns, until SIGTERM or SIGINT, or the end of *guard*, the parent.

    Returns whether it was the latter: all connections are closed, all threads have ended. Call it in the main thread,
    with `ENDS` blocked, as they are when it returns.
    """
    told = False
    draining = threading.Event()

    def end(*_: object) -> None:
        nonlocal told
        told = True
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        # What is raised in the middle of the drain is swallowed by waitress' trigger, and nobody would end the loop.
        if not draining.is_set():
            raise SystemExit(0)

    place.keep()
    server = make()
    for number in ENDS:
        signal.signal(number, end)
    # It has the caller's mask: a thread that took a signal would leave the main one asleep.
    threading.Thread(target=_watch, args=(place, guard, server, draining), daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        server.run()
    except SystemExit:
        pass  # not in waitress's loop, which returns
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    if told or guard is None:
        server.close()
        return False
    if os.getppid() == guard:
        # After what waitress takes for no reason to go on, such as no memory for a connection.
        raise RuntimeError("the server's loop has ended")
    _join()
    return True


def _watch(place: Place, guard: int | None, server: Any, draining: threading.Event) -> None:
    # A pidfd for speed; whose child this process is, is what counts.
    life = None if guard is None else Life(guard)
    descriptors = [] if life is None or life.fd is None else [life.fd]
    folding = Folding(place.path)
    while guard is None or os.getppid() == guard:
        place.keep()
        folding.fold()
        wait(descriptors, _KEEP_SECONDS)
    if life is not None:
        life.close()
    draining.set()
    with suppress(OSError):  # told to end meanwhile, and closed
        _drain(server)


def _drain(server: Any) -> None:
    """
    Have *server* take no more connections, answer the requests that it has, close, and so return from its loop.

    All of it is done by that loop, between two events, since it would stumble over a descriptor that is closed while it
    waits for it. It ends when it has nothing left to wait for.
    """
    deadline = time.monotonic() + _DRAIN_SECONDS
    closed = False

    def step() -> None:
        nonlocal closed
        server.accepting = False
        channels = list(server.active_channels.values())
        if not any(_busy(channel) for channel in channels) or time.monotonic() > deadline:
            for channel in channels:
                channel.handle_close()
            # Before the trigger is closed, which a thread pulls after its answer: the descriptor may be another's then.
            server.task_dispatcher.shutdown()
            server.close()
            closed = True
        done.set()

    while not closed:
        done = threading.Event()
        server.trigger.pull_trigger(step)
        # Not pulled again before: the trigger may be closed then, and its descriptor be another's.
        done.wait()
        time.sleep(_POLL_SECONDS)


def _busy(channel: Any) -> bool:
    # The last: connected, and nothing heard yet.
    return bool(
        channel.requests
        or channel.request
        or channel.total_outbufs_len
        or channel.last_activity == channel.creation_time
    )


def _join() -> None:
    # One that hangs longer does no harm to a guard; a forked child has only the thread that forked it.
    deadline = time.monotonic() + _JOIN_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(max(deadline - time.monotonic(), 0))
