"""The process of the exporter that answers scrapes: waitress, until it is told to end or its guard is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.process.life import Life, wait
from wsgi_prom.merge.folding import Folding

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.http.listener import Listening
    from wsgi_prom.exporter.process.place import Place

# Blocked by the caller: what comes before there is a handler, or while connections are closed, is kept for later.
ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

_KEEP_SECONDS: Final = 1.0
# How long requests that have begun may take to their answer's end when this process ends or becomes the guard.
_DRAIN_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.005
_JOIN_SECONDS: Final = 5.0


def answer(
    place: Place, listening: Listening, make: Callable[[Listening], Any], guard: int | None = None
) -> bool:
    """
    Answer scrapes with the server that *make* returns, until SIGTERM or SIGINT, or the end of *guard*, the parent.

    Returns whether it was the latter: all connections are closed, all threads have ended. Else *listening* is closed too,
    and the *place* another's. Call it in the main thread, with `ENDS` blocked, as they are when it returns.
    """
    told = False
    wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def end(*_: object) -> None:
        nonlocal told
        told = True
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        os.write(wake[1], b"\0")

    def watch() -> None:
        _wait_for_end(place, guard, wake[0])
        _drain(server, let_go if told else lambda: None)

    def let_go() -> None:
        # Whoever has connected by now is answered; then the next exporter can have the address.
        server.handle_accept()
        server.del_channel(server._map)
        server.socket.close()
        listening.close()
        place.let_go()

    place.keep()
    server = make(listening)
    for number in ENDS:
        signal.signal(number, end)
    # It has the caller's mask: a thread that took a signal would leave the main one asleep.
    threading.Thread(target=watch, daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        server.run()
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    if told:
        return False
    if not _orphaned(guard):
        # After what waitress takes for no reason to go on, such as no memory for a connection.
        raise RuntimeError("the server's loop has ended")
    _join()
    for fd in wake:
        os.close(fd)
    return True


def _wait_for_end(place: Place, guard: int | None, wake: int) -> None:
    """Look after the *place* until *wake* is readable, or *guard* has ended."""
    # A pidfd for speed; whose child this process is, is what counts.
    life = None if guard is None else Life(guard)
    descriptors = [wake] if life is None or life.fd is None else [wake, life.fd]
    folding = Folding(place.path)
    while not _orphaned(guard) and not wait([wake], 0):
        place.keep()
        folding.fold()
        wait(descriptors, _KEEP_SECONDS)
    if life is not None:
        life.close()


def _orphaned(guard: int | None) -> bool:
    return guard is not None and os.getppid() != guard


def _drain(server: Any, first: Callable[[], None]) -> None:
    """
    Have *server* take no more connections, answer the requests that it has, close, and so return from its loop.

    All of it is done by that loop, between two events, since it would stumble over a descriptor that is closed while it
    waits for it. It ends when it has nothing left to wait for. *first* is called before anything else.
    """
    deadline = time.monotonic() + _DRAIN_SECONDS
    closed = False

    def begin() -> None:
        first()
        server.accepting = False

    def step() -> None:
        nonlocal closed
        channels = list(server.active_channels.values())
        if not any(_busy(channel) for channel in channels) or time.monotonic() > deadline:
            for channel in channels:
                channel.handle_close()
            # Before the trigger is closed, which a thread pulls after its answer: the descriptor may be another's then.
            server.task_dispatcher.shutdown()
            server.close()
            closed = True

    _in_loop(server, begin)
    while not closed:
        _in_loop(server, step)
        time.sleep(_POLL_SECONDS)


def _in_loop(server: Any, do: Callable[[], None]) -> None:
    """Have *server*'s loop do something, and wait until it is done: the trigger may be closed by then."""
    done = threading.Event()

    def act() -> None:
        try:
            do()
        finally:
            done.set()

    server.trigger.pull_trigger(act)
    done.wait()


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
