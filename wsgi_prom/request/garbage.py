"""
What Python's garbage collector has done in a worker, as the client library names it, by slot and generation.

1. Only the process itself can tell, so it looks once a second, when it serves a request, at what Python counts anyway. A
   callback (gc.callbacks) would run in the middle of requests, twice for each collection.
2. The counters are a slot's: they go on when a worker is replaced. What a worker has collected after its last look is not
   counted.
"""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.store import fork_locks
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from wsgi_prom.request.rows import Rows

# In the order of the schema's columns.
_COUNTS: Final = ("collected", "uncollectable", "collections")


class Collections:
    """The garbage collections of this process since it began. Thread and fork safe."""

    def __init__(self) -> None:
        self._pid = 0
        self._seen: list[dict[str, int]] = []
        self._lock: Any = fork_locks.lock()

    def begin(self) -> None:
        """Count from now on, in a worker that was forked now: those of its parent before that are not its own."""
        self._seen = gc.get_stats()
        # PyPy's is an object, of other figures.
        self._pid = os.getpid() if isinstance(self._seen, list) else 0

    def count(self, rows: Rows) -> None:
        """Record what was collected since the last call, if this process has begun and has a slot. Takes some 10 us."""
        slot = current_slot.slot
        if self._pid != os.getpid() or not isinstance(slot, SharedSlot):
            return
        with self._lock:
            before, self._seen = self._seen, gc.get_stats()
            for generation, (then, now) in enumerate(zip(before, self._seen, strict=True)):
                more = {column: float(now[name] - then[name]) for column, name in enumerate(_COUNTS)}
                rows.add(rows.schemas.garbage, (str(slot.number), str(generation)), more)


collections: Final = Collections()
