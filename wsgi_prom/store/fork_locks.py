"""
Locks that are free in a forked child: those of the client library's metrics and registries.

`labels()` and a registry's `collect` take a lock. A thread of the parent that is in there at the fork does not exist in
the child, where the next `labels()` of that metric would wait for ever (uWSGI with a thread at import, `--preload`).

1. Locks are freed right after a fork, before any other code runs in the child: later, a thread of the child may hold one.
2. They are re-entrant: a signal handler or a finalizer may call `labels()` in the middle of `labels()`, and fork there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_locks: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_PLAIN: Final = type(threading.Lock())


def lock() -> Any:
    """Return a new lock that is free in a child, unless the thread that forked holds it."""
    made = threading.RLock()
    _locks.add(made)
    return made


def replace(modules: Iterable[ModuleType], owners: Iterable[Any]) -> None:
    """
    Have *modules* make such locks in the place of `threading.Lock`, and give one to each of *owners* that has a plain one.

    Call it once.
    """
    for module in modules:
        # Some versions of the library have made re-entrant ones themselves.
        for name in ("Lock", "RLock"):
            if hasattr(module, name):
                setattr(module, name, lock)
    for owner in owners:
        if type(getattr(owner, "_lock", None)) is _PLAIN:
            owner._lock = lock()
    os.register_at_fork(after_in_child=free)


def free() -> None:
    """Free all locks that threads of the parent held. For a child of a fork that runs no callbacks of Python (uWSGI)."""
    for held in list(_locks):
        if not held._is_owned():
            held._at_fork_reinit()  # as threading and logging do for their own
