"""The roles of the processes that have joined, as their slots tell."""

from __future__ import annotations

import weakref
from array import array
from typing import TYPE_CHECKING, Final

from wsgi_prom.store import joined_role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.merge.readers import Layout, Reading


_ONE: Final = array("d", [1.0]).tobytes()


class JoinedRoles:
    """Tells the role of a slot's process. Not for two threads at once."""

    def __init__(self) -> None:
        # By layout: the columns that are 1 if a process has the role, each with the role.
        self._columns: weakref.WeakKeyDictionary[Layout, list[tuple[int, str]]] = weakref.WeakKeyDictionary()

    def of(self, slot: Reading) -> str:
        """Return the role of the process that holds *slot*, an empty text if it has not joined."""
        columns = self._columns.get(slot.layout)
        if columns is None:
            columns = self._columns[slot.layout] = list(_columns(slot.layout))
        for column, role in columns:
            if slot.data[8 * column : 8 * column + 8] == _ONE:
                return role
        return ""


def _columns(layout: Layout) -> Iterator[tuple[int, str]]:
    first = 1  # behind the start time
    for schema, labelvalues in layout.rows:
        if schema == joined_role.SCHEMA:
            yield first, labelvalues[0]
        first += schema.stride
