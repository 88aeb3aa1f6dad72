"""
Threads that record at the same time: whether there are any, and how they take turns.
"""

from __future__ import annotations

import sys
from time import sleep
from typing import Any, Final

# How often a thread steps back before it waits.
_TRIES: Final = 100


def others() -> bool:
    """
    Return whether there may be other threads than this one.

    Those of a server in C (uWSGI's) too, which `threading` does not know. Without the interpreter's lock, always.
    """
    frames = getattr(sys, "_current_frames", None)
    locked = getattr(sys, "_is_gil_enabled", None)  # from 3.13 on
    return frames is None or (locked is not None and not locked()) or len(frames()) > 1


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
