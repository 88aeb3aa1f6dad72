"""
The supervisor: starts the serving process, restarts it when it dies, ends it when the server ends.

1. The supervisor has one thread, since it forks. It holds the listening socket and does not use it: a client that
   connects while no serving process runs waits in the backlog.
2. If the serving process exits with status 0, so does the supervisor. After any other end, SIGKILL included, it starts another.
3. If the supervisor dies, the serving process becomes a supervisor (serving.py).
4. The exit status is 0 or 1. gunicorn takes a child's 3 or 4 for a worker that cannot boot, and stops; in a container
   whose process 1 is gunicorn, every orphan is its child.

The supervisor costs 5.5 MB: each process has 29 MB, of which they share all but the pages that reference counts were written
to.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from wsgi_prom.exporter.http.listening import AddressInUseError
from wsgi_prom.exporter.process.watch import wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.http.listening import Listening
    from wsgi_prom.exporter.process.lock import ExporterLock
    from wsgi_prom.exporter.process.watch import MasterWatch

log = logging.getLogger("wsgi_prom")

# The signals that end the exporter in order. A process unblocks them only while it waits, so that none is lost at a fork or
# exec.
END_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

# The pauses between attempts to listen: another exporter may be about to release the address, or an interface may come up.
_FIRST_LISTEN_PAUSE_SECONDS: Final = 0.1
_LAST_LISTEN_PAUSE_SECONDS: Final = 5.0
_KEEP_SECONDS: Final = 1.0
# Longer than the serving process takes for its last scrapes. A stopped process does not handle SIGTERM.
_END_SECONDS: Final = 6.0
# How long the exporter waits, after its server's end, for others to leave the directory of a name. gunicorn's workers notice
# the death of their master within half of their timeout, which is 30 s.
_LEFT_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1
# A serving process that lived longer did not fail at its start.
_SETTLED_SECONDS: Final = 5.0
# Between failed starts. That is no load (a fork takes 5 ms), and shorter than Prometheus waits for an answer (10 s).
_RESTART_PAUSE_SECONDS: Final = 0.5


class Supervisor:
    """
    Keeps a serving process running until *master* ends, or a signal of END_SIGNALS comes.

    The calling process holds *lock*. *listen* returns the listening socket; the supervisor calls it again while it raises
    AddressInUseError. *prepare*, called in a forked child, returns what answers scrapes there until that is told to end.
    *clock*, in seconds, measures how long a serving process has lived.
    """

    def __init__(
        self,
        lock: ExporterLock,
        master: MasterWatch,
        listen: Callable[[], Listening],
        prepare: Callable[[Listening], Callable[[], object]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = lock
        self._master = master
        self._listen = listen
        self._prepare = prepare
        self._clock = clock
        self._told_to_end = False
        self._signalled = False
        # How many serving processes in a row died soon after their start.
        self._failures = 0
        # Python writes each signal to this pipe, so that none is missed between a check and a wait.
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self, inherited: Listening | None = None) -> None:
        """Supervise until the end, in the main thread, with the *inherited* socket if there is one."""
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        for number in END_SIGNALS:
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        self._lock.share()
        listening = inherited or self._listen_when_possible()
        if listening is not None:
            self._supervise(listening)
            listening.close()
        self._clean_up(_LEFT_SECONDS)

    def _listen_when_possible(self) -> Listening | None:
        """Return the listening socket, None if the exporter is to end before it can have one."""
        pause = _FIRST_LISTEN_PAUSE_SECONDS
        while not self._is_over():
            try:
                return self._listen()
            except AddressInUseError as error:
                # Not only for a port in use: an interface, a name, a folder and a right may be there later.
                if pause == _FIRST_LISTEN_PAUSE_SECONDS:
                    log.warning(
                        "%s The application is served without metrics; retrying every %d s",
                        error, _LAST_LISTEN_PAUSE_SECONDS,
                    )  # fmt: skip
            self._wait_for(None, pause)
            pause = min(2 * pause, _LAST_LISTEN_PAUSE_SECONDS)
        return None

    def _supervise(self, listening: Listening) -> None:
        while not self._is_over():
            started = self._clock()
            # The child's garbage collections then write to no page that both share, which would copy it.
            gc.collect()
            gc.freeze()
            try:
                child = os.fork()
            except OSError as error:
                self._pause_after_failure(f"could not be started ({error.strerror})", 0)
                continue
            if child == 0:
                self._run_child(listening)
            status = self._wait_for(child)
            if status is None:
                self._end_child(child, listening)
            elif status == 0:
                self._told_to_end = True
            else:
                self._pause_after_failure(_describe(child, status), self._clock() - started)

    def _run_child(self, listening: Listening) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            # Before all else: the lock would have no owner if the supervisor were killed now.
            self._lock.share()
            # After two failures what is said at the start has been said.
            log.disabled = self._failures >= 2
            serve = self._prepare(listening)
            log.disabled = False
            serve()
            # The supervisor does so too, unless it is killed first.
            self._clean_up()
            status = 0
        except BaseException:
            if self._failures < 2:
                log.exception("the exporter's serving process failed")
        os._exit(status)

    def _wait_for(self, child: int | None, seconds: float = math.inf) -> int | None:
        """
        Hold the lock until *child* has ended, *seconds* have passed, or the exporter is to end.

        Returns the exit status of *child*, below 0 for a signal; None if it runs.
        """
        deadline = time.monotonic() + seconds
        while not self._is_over() and (left := deadline - time.monotonic()) > 0:
            status = None if child is None else _status(child)
            if status is not None:
                return status
            self._wait(min(left, _KEEP_SECONDS))
            self._lock.keep()
        return None

    def _end_child(self, child: int, listening: Listening) -> None:
        os.kill(child, signal.SIGTERM)
        # Another exporter may have the address and the lock while the child finishes its last scrapes.
        listening.close()
        self._lock.release()
        deadline = time.monotonic() + _END_SECONDS
        while _status(child) is None:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            self._wait(deadline - time.monotonic())

    def _clean_up(self, patience: float = 0.0) -> None:
        self._lock.release()
        if self._master.ended():
            deadline = time.monotonic() + patience
            while self._lock.remove_directory() and not self._signalled and time.monotonic() < deadline:
                self._wait(_POLL_SECONDS)

    def _end(self, *_: object) -> None:
        self._told_to_end = self._signalled = True

    def _is_over(self) -> bool:
        self._told_to_end = self._told_to_end or self._master.ended()
        return self._told_to_end

    def _pause_after_failure(self, what: str, lived: float) -> None:
        self._failures = 1 if lived >= _SETTLED_SECONDS else self._failures + 1
        if self._failures == 1:
            log.warning("the exporter's serving process %s; it is restarted", what)
            return
        if self._failures == 2:
            log.error(
                "the exporter's serving process %s, again within seconds of its start; it is restarted every %.1f s. Further "
                "failures are not logged until it lives longer",
                what, _RESTART_PAUSE_SECONDS,
            )  # fmt: skip
        self._wait_for(None, _RESTART_PAUSE_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Wait for a signal, the end of the master, or *seconds*."""
        descriptors = [self._wake[0]]
        if self._master.fd is not None and not self._told_to_end:
            descriptors.append(self._master.fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        wait(descriptors, max(seconds, 0))
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        with suppress(BlockingIOError):
            os.read(self._wake[0], 4096)


def _status(child: int) -> int | None:
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def _describe(child: int, status: int) -> str:
    if status > 0:
        return f"(pid {child}) ended with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return f"(pid {child}) was ended by {names.get(-status, f'signal {-status}')}"
