"""What every slot does, and the slot that only its own process sees: before a directory is known, and where there is none."""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, Protocol

from wsgi_prom.store.removal import fit, removed_now

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.store.removal import Removal
    from wsgi_prom.store.schemas import Schema

    Columns = memoryview[float] | array[float]


class Slot(Protocol):
    """Where a process records: files below *path*, which are *owner*'s where that is not the process's user."""

    @property
    def path(self) -> Path | None: ...

    @property
    def owner(self) -> tuple[int, int] | None: ...

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        """
        Return the columns of a row, made at the first call, and the index of its first value.

        They are valid for as long as the process lives. The column before the first value is the row's start time.
        """

    def remove(self, removal: Removal) -> None:
        """Remove the rows that *removal* covers."""


class MemorySlot:
    """A slot in the process's own memory."""

    path: Path | None = None
    owner: tuple[int, int] | None = None

    def __init__(self) -> None:
        self._rows: dict[tuple[Schema, tuple[str, ...]], array[float]] = {}

    def row(self, schema: Schema, labelvalues: tuple[str, ...]) -> tuple[Columns, int]:
        fresh = array("d", bytes(8 * schema.stride))
        fresh[0] = time.time()
        return self._rows.setdefault((schema, labelvalues), fresh), 1

    def rows(self) -> list[tuple[Schema, tuple[str, ...], list[float]]]:
        """Return what was recorded, for a collector in the same process."""
        return [(schema, values, list(columns)) for (schema, values), columns in list(self._rows.items())]

    def remove(self, removal: Removal) -> None:
        for (schema, labelvalues), columns in list(self._rows.items()):
            wanted = removal.labelvalues(schema)
            if wanted is not None and fit(wanted, labelvalues):
                # Objects that record into it see that by the start time. The next row of that label set is another.
                columns[0] = removed_now()
                self._rows.pop((schema, labelvalues), None)
