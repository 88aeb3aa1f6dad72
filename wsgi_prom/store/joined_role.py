"""
The role of a process that has joined the server's processes, and of those that it forks: a row of its slot.

The row's value is 1 while the slot is of such a process: the next owner of a slot starts a live gauge from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.store import schemas

if TYPE_CHECKING:
    from wsgi_prom.store.memory_slot import Slot

SCHEMA: Final = schemas.gauge(*metrics.JOINED, ("role",), "livesum")


class JoinedRole:
    """Says in each slot that this process or a forked child of it claims that its role is *role*."""

    def __init__(self, role: str) -> None:
        self.role = role

    def bind(self, slot: Slot, *, keep: bool) -> None:  # noqa: ARG002 - a child has its parent's role
        columns, first = slot.row(SCHEMA, (self.role,))
        columns[first] = 1.0
