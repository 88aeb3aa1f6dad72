"""
The guard of the process that answers scrapes: forks it, forks another when it dies, ends it when the server ends.

The exporter is a pair, so that a SIGKILL of it (the kernel's, out of memory) is no end of the metrics. The guard holds the
socket and does nothing with it: who connects while nobody answers waits in the backlog. If it is the guard that is killed,
the one that answers stops its threads and goes on as the guard of a new one: the same process, so that neither the
socket nor the directory's lock is ever without an owner, and nothing has to be found and imported again (an installation
that was replaced meanwhile, say), as an exec would.

It costs 5.5 MB: of 29 MB each, the two share all but 5 MB, which is what counting references has written to.
"""

# Rule 1: a guard has one thread. It forks.
# Rule 2: a process of the pair that ends in order ends the pair; any other end of the one that answers is made good.
# Rule 3: the guard lives as long as the server that started it, or another that shares the directory (gunicorn's USR2).
# Rule 4: its exit status is 0 or 1. gunicorn takes a child's 3 or 4 as a worker's that cannot boot, and stops; it is the
#         parent of all orphans where it is process 1 of a container.

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.exporter.http.listener import AddressInUseError
from wsgi_prom.exporter.process.answers import ENDS, answer
from wsgi_prom.exporter.process.life import Life, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.http.listener import Listening
    from wsgi_prom.exporter.process.place import Place

log = logging.getLogger("wsgi_prom")

# Of an address that cannot be had yet: it is another exporter's whose server ends, or an interface's that comes up later.
_FIRST_TRY_SECONDS: Final = 0.1
_LAST_TRY_SECONDS: Final = 5.0
# How often the place is looked after. All else wakes the guard.
_KEEP_SECONDS: Final = 1.0
# More than waitress takes for its last scrapes. A stopped process takes no SIGTERM.
_END_SECONDS: Final = 6.0
# Who lives that long was no failure of its start. Of those who do not, the pauses before the next grow, up to one that
# is no load (a fork takes 5 ms) and less than what Prometheus waits for an answer (10 s).
_SETTLED_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LAST_PAUSE_SECONDS: Final = 0.5
_SAID: Final = 3


class Guard:
    """
    Keep a process answering with a server that *make* returns, until the process *parent* ends.

    This process has taken the *place*. *listen* is tried until it returns the socket that the servers listen on, which
    this process keeps open. *clock* tells in seconds how long a process has answered.
    """

    def __init__(
        self,
        place: Place,
        listen: Callable[[], Listening],
        make: Callable[[Listening], Any],
        parent: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._listen = listen
        self._make = make
        self._clock = clock
        self._server = Life(parent)
        self._ending = False
        # How many in a row did not live long.
        self._failures = 0
        # Signals are written there, so that none is missed between a look and a sleep.
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Guard until the end, in the main thread. The process that returns may be another than the one that called."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        self._place.share()
        self._attend()
        listening = self._listening()
        if listening is not None:
            self._keep_answering(listening)
        self._leave(listening)

    def _listening(self) -> Listening | None:
        """Return the socket as soon as it can be had, None if it is time to end before."""
        pause = _FIRST_TRY_SECONDS
        while not self._over():
            try:
                return self._listen()
            except AddressInUseError as error:
                # All is tried again: a port, an interface, a name, a folder and a right may be there later.
                if pause == _FIRST_TRY_SECONDS:
                    log.warning(
                        "%s The application is served without metrics; retrying every %d s",
                        error, _LAST_TRY_SECONDS,
                    )  # fmt: skip
            self._pause(pause)
            pause = min(2 * pause, _LAST_TRY_SECONDS)
        return None

    def _keep_answering(self, listening: Listening) -> None:
        while not self._over():
            started = self._clock()
            guard = os.getpid()
            # Nothing of what both share is touched by the child's collections, which would copy it.
            gc.collect()
            gc.freeze()
            try:
                child = os.fork()
            except OSError as error:
                self._wait_before_next(f"could not be started ({error.strerror})", 0)
                continue
            if child == 0:
                self._answer(listening, guard)
                self._attend()
                continue
            status = self._attended(child, listening)
            if status == 0:
                break
            if status is not None:
                self._wait_before_next(_told(child, status), self._clock() - started)

    def _answer(self, listening: Listening, guard: int) -> None:
        """Be the process that answers. Returns when it has become the guard."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            if answer(self._place, listening, self._make, guard):
                log.warning(
                    "the exporter's guard, pid %d, has died; pid %d is in its place", guard, os.getpid()
                )
                return
            # The guard does so too, unless it is killed before.
            self._leave(listening)
            status = 0
        except BaseException:
            if self._failures < _SAID:
                log.exception("the exporter failed")
        os._exit(status)

    def _attend(self) -> None:
        """Have signals wake this process, and be remembered."""
        for number in ENDS:
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)

    def _end(self, *_: object) -> None:
        self._ending = True

    def _over(self) -> bool:
        while not self._ending and self._server.over():
            self._server.close()
            # The next master of the same directory, if there is one: its lock tells its pid, and 0 for that of another
            # pid namespace, which is looked for again at each turn.
            following = max(self._place.servers(), default=None)
            if following == 0:
                break
            if following is None:
                self._ending = True
            else:
                self._server = Life(following)
        return self._ending

    def _leave(self, listening: Listening | None) -> None:
        self._let_go(listening)
        if self._server.over():
            self._place.leave()

    def _let_go(self, listening: Listening | None) -> None:
        """Let the next exporter have the address and the place."""
        if listening is not None:
            listening.close()
        self._place.let_go()

    def _attended(self, child: int, listening: Listening) -> int | None:
        """Return the exit status of *child*, below 0 for a signal; None if it was ended since it is time."""
        while not self._over():
            status = _status(child)
            if status is not None:
                return status
            self._sleep(_KEEP_SECONDS)
            self._place.keep()
        os.kill(child, signal.SIGTERM)
        self._let_go(listening)
        deadline = time.monotonic() + _END_SECONDS
        while _status(child) is None:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            self._sleep(deadline - time.monotonic())
        return None

    def _wait_before_next(self, what: str, lived: float) -> None:
        self._failures = 1 if lived >= _SETTLED_SECONDS else self._failures + 1
        if self._failures < _SAID:
            log.warning("the exporter %s; it is started again", what)
        elif self._failures == _SAID:
            log.error(
                "the exporter %s, for the %drd time within seconds of its start; it is started again, after pauses "
                "of up to %.1f s, and this is said no more until it lasts",
                what, _SAID, _LAST_PAUSE_SECONDS,
            )  # fmt: skip
        if self._failures > 1:
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 2, 10), _LAST_PAUSE_SECONDS)
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Sleep for *seconds*, or until it is time to end."""
        deadline = time.monotonic() + seconds
        while not self._over() and time.monotonic() < deadline:
            self._sleep(min(deadline - time.monotonic(), _KEEP_SECONDS))
            self._place.keep()

    def _sleep(self, seconds: float) -> None:
        """Sleep until a signal, the end of the server, or *seconds*."""
        descriptors = [self._wake[0]]
        if self._server.fd is not None and not self._ending:
            descriptors.append(self._server.fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        wait(descriptors, max(seconds, 0))
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        with suppress(BlockingIOError):
            os.read(self._wake[0], 4096)


def _status(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def _told(child: int, status: int) -> str:
    if status > 0:
        return f"(pid {child}) ended with status {status}"
    try:
        return f"(pid {child}) was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"(pid {child}) was ended by signal {-status}"
