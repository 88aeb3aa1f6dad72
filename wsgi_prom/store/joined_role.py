"""
The role of a process that has joined the server's processes, and of those that it forks: a row of its slot.

The row's value is 1 while the slot is of such a process: the next owner of a slot starts a live gauge from 0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.store import schemas

if TYPE_CHECKING:
    from wsgi_prom.store.memory_slot import Columns, Slot

# Of any role: those of a server's own processes too.
PATTERN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}", re.ASCII)
SCHEMA: Final = schemas.gauge(*metrics.JOINED, ("role",), "livesum")


class JoinedRole:
    """Says in each slot that this process or a forked child of it claims that its role is *role*."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._row: tuple[Columns, int] | None = None

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """See `wsgi_prom.store.bindings.Binding`."""
        del keep  # a child has its parent's role
        columns, first = self._row = slot.row(SCHEMA, (self.role,))
        columns[first] = 1.0

    def leave(self) -> None:
        """Take the role back, for this process; its children have none if nothing refers to this object."""
        if self._row is not None:
            columns, first = self._row
            columns[first] = 0.0


# Of this process, None if it has not joined.
current: JoinedRole | None = None


def leave() -> None:
    """Give up the role: `wsgi-prom run` has started a server, whose hook says what its processes are."""
    global current
    if current is not None:
        current.leave()
        current = None
