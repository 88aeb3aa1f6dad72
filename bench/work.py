"""
What a contender does in its own process: slices of work, of which only the work is timed, and fixed amounts of it.
"""

# Rule 1: whatever is made for the work (environs, label values) is made before the clock starts.
# Rule 2: the clock is the process's time on the processor, since none of this waits for anything: on a machine with
#         others on it the wall clock went wrong by half. Only threads, which wait for each other, are timed by that.

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

# No more than fit into a core's cache with what they point to: a server makes an environ just before it is served.
_BATCH: Final = 50

_WARM_UP: Final = 1000

# Many, since reading the clock takes as long as a few of them.
_CALLS: Final = 1000

_THREADS: Final = 4
_REQUESTS_A_THREAD: Final = 2000

# With what is met in warming up, below the limit of 1,000 label sets.
_NEW: Final = 600


def requests(app: Any) -> Callable[[], float]:
    """Serve requests of one kind: nanoseconds each."""
    serve(app, environs(_WARM_UP))

    def measure() -> float:
        served, seconds = 0, 0.0
        end = perf_counter() + _SLICE_SECONDS
        while perf_counter() < end:
            batch = environs(_BATCH)
            started = process_time()
            serve(app, batch)
            seconds += process_time() - started
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


def calls(name: str) -> Callable[[Any], Callable[[], float]]:
    """Record into a metric of the application's own: nanoseconds a call."""

    def prepare(_app: Any) -> Callable[[], float]:
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


# Each is prepared with the contender's application, and warmed up.
SLICES: Final[Mapping[str, Callable[[Any], Callable[[], float]]]] = {
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
