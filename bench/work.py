"""
The work of a contender in its own process: timed slices, and fixed amounts to count instructions of.
"""

# Rule 1: environs and label values are made before the clock starts.
# Rule 2: the time added to a request is the difference of two applications in one process, which take turns. That of two
#         processes was wrong by 6 microseconds of 17 under Flask, of six alike (where their memory lies, and when).
# Rule 3: the clock is the process's time on the processor, where none of the work waits for anything: on a machine with
#         others on it the wall clock went wrong by half. Not of threads, which wait for each other, nor of single
#         requests, since that clock is a system call: there the median of the slices leaves out what was interrupted.

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

# Long enough that the clock does not count, and so short that the neighbours of a round have the same machine.
_SLICE_SECONDS: Final = 0.03

# Before that, and not timed: what a process adds that has just been woken is a third more under Flask and Django.
_WAKING_SECONDS: Final = 0.06

_WARM_UP: Final = 1000

# Many, since reading the clock takes as long as a few of them.
_CALLS: Final = 1000

_THREADS: Final = 4
_REQUESTS_A_THREAD: Final = 500

# With what is met in warming up, below the limit of 1,000 label sets.
_NEW: Final = 600


def requests(app: Any, bare: Any = None) -> Callable[[], float]:
    """Serve requests of one kind: nanoseconds each, or with *bare* what *app* adds to that."""
    return _turns(app, bare, _one)


def threads(app: Any, bare: Any = None) -> Callable[[], float]:
    """Serve them in threads at once: nanoseconds of the process for each, or what *app* adds to those of *bare*."""
    # A real server's threads change places at each read and write of a socket, which there are none of here.
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
    """Serve a request, whose environ is made just before as a server does it, and return the seconds that it took."""
    made = environs(1)
    started = perf_counter()
    serve(app, made)
    return perf_counter() - started


def _together(app: Any) -> float:
    """Serve many in all threads, and return the seconds that each took of the process."""
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
    """Serve the first request of each of so many routes: nanoseconds each. Once in a process: they are new once."""
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
        # What stock takes from the path, ours takes from what the application says of it.
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
    """Record in many label sets: bytes of shared memory that the process has then."""
    kept = fill()

    def measure() -> float:
        assert kept
        # In blocks: what a file of the client library's has no values in yet takes no memory.
        return sum(path.stat().st_blocks * 512 for path in _directory().iterdir())

    return measure


def takeover(_app: Any, _bare: Any = None) -> Callable[[], float]:
    """Take the slot of a dead process over: milliseconds. Of ours only, the client library has nothing like it."""
    from wsgi_prom.store.slots import SlotFile

    pid = os.fork()
    if pid == 0:
        fill()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

    def measure() -> float:
        started = perf_counter()
        slot = SlotFile.claim(_directory())
        seconds = perf_counter() - started
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


# Each is prepared with the contender's application and perhaps the bare one, and warmed up.
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
