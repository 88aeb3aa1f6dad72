"""
The work of a contender in its own process: timed slices, and fixed amounts to count instructions of.

1. Environs and label values are made before the clock starts.
2. The time added to a request is the difference of two applications in one process, which take turns. The difference of two
   processes was wrong by 6 microseconds of 17 under Flask: six alike ones differed by where their memory lies, and when.
3. The clock is CPU time where none of the work waits: on a machine with other work, the wall clock was wrong by half. For
   threads, which wait for each other, and for single requests, since that clock is a system call, it is the wall clock:
   the median of the slices leaves out what was interrupted.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, Final

from calls import CALLS, fill
from serving import environs, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Long enough that reading the clock does not matter, short enough that all slices of a round have the same load beside them.
_SLICE_SECONDS: Final = 0.03

# Work before a slice that is not timed: a process that has just woken adds a third more under Flask and Django.
_WAKING_SECONDS: Final = 0.06

_WARM_UP: Final = 1000

# Calls between two readings of the clock, which takes as long as a few of them.
_CALLS: Final = 1000

_THREADS: Final = 4
_REQUESTS_A_THREAD: Final = 500

# New label sets: together with those of the warm-up below the limit of 1,000.
_NEW: Final = 600


def requests(app: Any, bare: Any = None) -> Callable[[], float]:
    """Serve requests of one kind: nanoseconds each, or with *bare* what *app* adds to that."""
    return _turns(app, bare, _one)


def threads(app: Any, bare: Any = None) -> Callable[[], float]:
    """Serve requests in several threads: nanoseconds of the process for each, or what *app* adds to those of *bare*."""
    # A real server's threads switch at each read and write of a socket. There are no sockets here.
    sys.setswitchinterval(0.0005)
    return _turns(app, bare, _together)


def _turns(app: Any, bare: Any, serving: Callable[[Any], float]) -> Callable[[], float]:
    apps = [app] if bare is None else [bare, app]
    for each in apps:
        serve(each, environs(_WARM_UP))

    def measure() -> float:
        _alternate(apps, serving, _WAKING_SECONDS)
        return _alternate(apps, serving, _SLICE_SECONDS)

    return measure


def _alternate(apps: list[Any], serving: Callable[[Any], float], duration: float) -> float:
    turns, seconds = 0, [0.0] * len(apps)
    end = perf_counter() + duration
    while perf_counter() < end:
        for place in range(len(apps))[:: 1 if turns % 2 else -1]:
            seconds[place] += serving(apps[place])
        turns += 1
    return (seconds[-1] - sum(seconds[:-1])) / turns * 1e9


def _one(app: Any) -> float:
    """Serve a request, whose environ is made just before, as by a server. Return the seconds that it took."""
    made = environs(1)
    started = perf_counter()
    serve(app, made)
    return perf_counter() - started


def _together(app: Any) -> float:
    """Serve many requests in each thread, and return the seconds of the process for one."""
    barrier = threading.Barrier(_THREADS + 1)

    def work(batch: list[dict[str, Any]]) -> None:
        barrier.wait()
        serve(app, batch)

    workers = [threading.Thread(target=work, args=(environs(_REQUESTS_A_THREAD),)) for _ in range(_THREADS)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = perf_counter()
    for worker in workers:
        worker.join()
    return (perf_counter() - started) / (_THREADS * _REQUESTS_A_THREAD)


def newlabels(app: Any, _bare: Any = None) -> Callable[[], float]:
    """Serve the first request of each of _NEW routes: nanoseconds each. Measure once in a process: routes are new once."""
    serve(app, environs(_WARM_UP))
    serve(app, _routed(100))
    fresh = _routed(_NEW)

    def measure() -> float:
        started = process_time()
        serve(app, fresh)
        return (process_time() - started) / _NEW * 1e9

    return measure


_numbers = itertools.count()


def _routed(count: int) -> list[dict[str, Any]]:
    found = environs(count, (f"/new/{number}".encode() for number in _numbers))
    for environ in found:
        # Stock's label is the path. Ours is a route that the application sets.
        environ["wsgi_prom.route"] = environ["PATH_INFO"]
    return found


def calls(name: str) -> Callable[..., Callable[[], float]]:
    """Record into a metric of the application's own: nanoseconds a call."""

    def prepare(_app: Any, _bare: Any = None) -> Callable[[], float]:
        call = CALLS[name]()
        call(_CALLS)

        def measure() -> float:
            count, seconds = 0, 0.0
            while seconds < _SLICE_SECONDS:
                started = process_time()
                call(_CALLS)
                seconds += process_time() - started
                count += _CALLS
            return seconds / count * 1e9

        return measure

    return prepare


def memory(_app: Any, _bare: Any = None) -> Callable[[], float]:
    """Record in many label sets: bytes of shared memory that they take."""
    kept = fill()

    def measure() -> float:
        assert kept
        # Blocks and not sizes: pages of the client library's files without a value take no memory.
        return sum(path.stat().st_blocks * 512 for path in _directory().iterdir())

    return measure


def takeover(_app: Any, _bare: Any = None) -> Callable[[], float]:
    """Claim the slot of a dead process: milliseconds. Only ours: the client library has no slots."""
    from wsgi_prom.store.slots import SharedSlot

    pid = os.fork()
    if pid == 0:
        fill()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

    def measure() -> float:
        started = process_time()
        slot = SharedSlot.claim(_directory())
        seconds = process_time() - started
        assert slot.number == 0
        slot.leave()
        return seconds * 1e3

    return measure


def _directory() -> Path:
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


def fixed_requests(app: Any, count: int) -> Callable[[], None]:
    serve(app, environs(_WARM_UP))
    made = environs(count)
    return lambda: serve(app, made)


def fixed_calls(name: str) -> Callable[[Any, int], Callable[[], None]]:
    def prepare(_app: Any, count: int) -> Callable[[], None]:
        call = CALLS[name]()
        call(_WARM_UP)
        return lambda: call(count)

    return prepare


# Each function takes the contender's application, and perhaps the bare one, and returns a timed slice after a warm-up.
SLICES: Final[Mapping[str, Callable[..., Callable[[], float]]]] = {
    "requests": requests,
    "threads": threads,
    "newlabels": newlabels,
    "memory": memory,
    "takeover": takeover,
    **{name: calls(name) for name in CALLS},
}

FIXED: Final[Mapping[str, Callable[[Any, int], Callable[[], None]]]] = {
    "requests": fixed_requests,
    **{name: fixed_calls(name) for name in CALLS},
}
