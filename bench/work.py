"""
What a contender does in its own process: slices of work, of which only the work is timed, and fixed amounts of it.
"""

# Rule: whatever is made for the work (environs, label values) is made before the clock starts.

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from calls import CALLS, fill
from serving import environs, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Long enough that the clock does not count, and so short that the neighbours of a round have the same machine.
_SLICE_SECONDS: Final = 0.03

# No more than fit into a core's cache with what they point to: a server makes an environ just before it is served.
_BATCH: Final = 50

_WARM_UP: Final = 1000
_THREADS: Final = 4
_REQUESTS_A_THREAD: Final = 2000

# With what is met in warming up, below the limit of 1,000 label sets.
_NEW: Final = 600

# What the fixed work is done of at most: so many environs are made, however many are served.
_FIXED: Final = 3000


def requests(app: Any) -> Callable[[], float]:
    """Serve requests of one kind: nanoseconds each."""
    serve(app, environs(_WARM_UP))

    def measure() -> float:
        served, seconds = 0, 0.0
        end = perf_counter() + _SLICE_SECONDS
        while perf_counter() < end:
            batch = environs(_BATCH)
            started = perf_counter()
            serve(app, batch)
            seconds += perf_counter() - started
            served += _BATCH
        return seconds / served * 1e9

    return measure


def threads(app: Any) -> Callable[[], float]:
    """Serve them in threads at once: nanoseconds of the process for each."""
    serve(app, environs(_WARM_UP))
    # A real server's threads change places at each read and write of a socket, which there are none of here.
    sys.setswitchinterval(0.0005)

    def measure() -> float:
        barrier = threading.Barrier(_THREADS + 1)

        def work(batch: list[dict[str, Any]]) -> None:
            barrier.wait()
            serve(app, batch)

        workers = [
            threading.Thread(target=work, args=(environs(_REQUESTS_A_THREAD),)) for _ in range(_THREADS)
        ]
        for worker in workers:
            worker.start()
        barrier.wait()
        started = perf_counter()
        for worker in workers:
            worker.join()
        return (perf_counter() - started) / (_THREADS * _REQUESTS_A_THREAD) * 1e9

    return measure


def newlabels(app: Any) -> Callable[[], float]:
    """Serve the first request of each of so many routes: nanoseconds each. Once in a process: they are new once."""
    serve(app, environs(_WARM_UP))
    serve(app, _routed(100))
    fresh = _routed(_NEW)

    def measure() -> float:
        started = perf_counter()
        serve(app, fresh)
        return (perf_counter() - started) / _NEW * 1e9

    return measure


_numbers = itertools.count()


def _routed(count: int) -> list[dict[str, Any]]:
    found = environs(count, (f"/new/{number}".encode() for number in _numbers))
    for environ in found:
        # What stock takes from the path, ours takes from what the application says of it.
        environ["wsgi_prom.route"] = environ["PATH_INFO"]
    return found


def calls(name: str) -> Callable[[Any], Callable[[], float]]:
    """Record into a metric of the application's own: nanoseconds a call."""

    def prepare(_app: Any) -> Callable[[], float]:
        call = CALLS[name]()
        call(_WARM_UP)

        def measure() -> float:
            count, seconds = 0, 0.0
            while seconds < _SLICE_SECONDS:
                started = perf_counter()
                call(_BATCH)
                seconds += perf_counter() - started
                count += _BATCH
            return seconds / count * 1e9

        return measure

    return prepare


def memory(_app: Any) -> Callable[[], float]:
    """Record in many label sets: bytes of shared memory that the process has then."""
    kept = fill()

    def measure() -> float:
        assert kept
        # In blocks: what a file of the client library's has no values in yet takes no memory.
        return sum(path.stat().st_blocks * 512 for path in _directory().iterdir())

    return measure


def takeover(_app: Any) -> Callable[[], float]:
    """Take the slot of a dead process over: milliseconds. Of ours only, the client library has nothing like it."""
    from wsgi_prom.storage.slots import SlotFile

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


def fixed_requests(app: Any, count: int) -> None:
    made = environs(_FIXED)
    # The others stay: to forget them is work too.
    served, _kept = made[:count], made[count:]
    del made
    serve(app, served)


def fixed_calls(name: str) -> Callable[[Any, int], None]:
    return lambda _app, count: CALLS[name]()(count)


# Each is prepared with the contender's application, and warmed up.
SLICES: Final[Mapping[str, Callable[[Any], Callable[[], float]]]] = {
    "requests": requests,
    "threads": threads,
    "newlabels": newlabels,
    "memory": memory,
    "takeover": takeover,
    **{name: calls(name) for name in CALLS},
}

FIXED: Final[Mapping[str, Callable[[Any, int], None]]] = {
    "requests": fixed_requests,
    **{name: fixed_calls(name) for name in CALLS},
}
