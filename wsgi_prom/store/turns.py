"""
Threads that record at the same time: whether they need a lock for it, and how they take turns where they do.
"""

from __future__ import annotations

import sys
from time import sleep
from typing import Any, Final

# How often a thread steps back before it waits.
_TRIES: Final = 100


def interrupt() -> bool:
    """
    Return whether another thread may run between a look-up and the stores after it, where nothing is called in between.

    Not on CPython with its global lock: it hands that on, runs signal handlers and (from 3.12 on) collects garbage after
    calls and on jumps back alone (bpo-29988, python/cpython#18334).
    tests/test_turns.py reads the bytecode of all that relies on it. On 3.11 a new container may set off a collection, so
    that none is made there either.
    """
    has_global_lock = getattr(sys, "_is_gil_enabled", None)  # from 3.13 on
    return sys.implementation.name != "cpython" or (has_global_lock is not None and not has_global_lock())


def take(lock: Any) -> None:
    """
    Take *lock*, for a caller whose `finally` begins with its release, which raises RuntimeError if it was not taken.

    (Not with a look at who holds it, nor in a function: a signal's handler may raise in between, and it is kept for ever.)
    Not by waiting for it: whoever waits is given it while another thread has the interpreter's lock, so that each record
    of each thread ends in a wait for both (four busy threads took 3 times as long). Raises what a signal's handler does.
    """
    for _ in range(_TRIES):
        if lock.acquire(False):
            return
        sleep(0)  # lets the thread run that holds it
    lock.acquire()
