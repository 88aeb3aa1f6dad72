"""
Stores to a slot without a lock, where the interpreter's own lock is enough.

CPython with its global lock runs other threads, signal handlers and (from 3.12 on) the garbage collector after calls and
on jumps back alone (bpo-29988, python/cpython#18334). So a look-up and the stores after it are one step if nothing is
called in between; on 3.11 no container is made there either, since that may set off a collection. Record paths look at
`current_slot.token` first, and hold `current_slot.lock` if it is False: while a slot is changed, and always on other builds.
A lock at each record costs 41 % more instructions of `Counter.inc()` (5,430 instead of 3,860,
bench/instructions.py), and threads that wait for it take turns. tests/test_unlocked.py reads the bytecode of all such paths.
"""

from __future__ import annotations

import sys


def needs_lock() -> bool:
    """Return whether another thread may run between a look-up and the stores after it, where nothing is called in between."""
    has_global_lock = getattr(sys, "_is_gil_enabled", None)  # from 3.13 on
    return sys.implementation.name != "cpython" or (has_global_lock is not None and not has_global_lock())
