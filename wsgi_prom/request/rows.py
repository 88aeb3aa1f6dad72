"""
The rows that a recorder has met, each where it is in the slot that is in force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.store.file_format import Schema
    from wsgi_prom.store.slots import Columns

    Row = tuple[Columns, int]
    Key = tuple[Schema, tuple[str, ...]]


def columns_of(row: Row, width: int) -> Columns:
    """Return the *width* columns of *row* alone: a store to them needs no addition, and no pair to be taken apart."""
    columns, first = row
    # An array is one of its own.
    return columns[first : first + width] if isinstance(columns, memoryview) else columns


class InProgress:
    """
    How many requests this process is serving, and the column that shows it.

    Whoever stores to it holds the current slot's lock, or needs none.
    """

    __slots__ = ("_lock", "columns", "count", "shown")

    def __init__(self) -> None:
        self.columns: Columns = [0.0]
        # Not read back from the slot: what is lost there while requests are under way would make it negative.
        self.count = 0.0
        # Whether the column is a row of the slot, as it is once a recorder has asked for that.
        self.shown = False
        self._lock = current_slot.lock

    def move(self, row: Row | None) -> None:
        """Show it in *row* from now on, if there is one."""
        if (
            self._lock is not current_slot.lock
        ):  # in a forked child, which serves none of its parent's requests
            self._lock, self.count = current_slot.lock, 0.0
        if row is not None:
            self.columns = columns_of(row, 1)
            self.columns[0] = self.count

    def enter(self, request: Any) -> None:
        """Take *request* into those in progress, with the current slot's lock, which is its token."""
        lock = current_slot.lock
        with lock:
            self.columns[0] = self.count = self.count + 1.0
            request.token = lock

    def dismiss(self, request: Any) -> None:
        """Take *request* out of those in progress, if it is one of them."""
        lock = getattr(request, "token", None)
        if lock is current_slot.lock and current_slot.alive[1]:
            with lock:
                if request.token is not None:  # not counted by another thread meanwhile
                    self.columns[0] = self.count = self.count - 1.0
                    request.token = None
        request.token = None


_in_progress: Final[dict[Schema | None, InProgress]] = {}


def in_progress(schema: Schema | None) -> InProgress:
    """Return what is in progress by the gauge of *schema*, which several recorders may share."""
    return _in_progress.setdefault(schema, InProgress())


class Rows:
    """
    Rows by schema and labels, of *schemas* alone.

    Thread safe; whoever stores to a row holds the current slot's lock, and has looked it up since he has.
    """

    def __init__(self, schemas: Iterable[Schema | None]) -> None:
        self._rows: dict[Schema, dict[tuple[str, ...], Row]] = {
            schema: {} for schema in schemas if schema is not None
        }

    def __contains__(self, key: Key) -> bool:
        return key[1] in self._rows[key[0]]

    def get(self, schema: Schema, labels: tuple[str, ...]) -> Row | None:
        return self._rows[schema].get(labels)

    def find(self, schema: Schema, labels: tuple[str, ...]) -> Row:
        """Return a row, made at the first call."""
        with current_slot.lock:
            row = self._rows[schema].get(labels)
            if row is None:
                row = self._rows[schema][labels] = current_slot.row(schema, labels)
            return row

    def known(self) -> list[Key]:
        return [(schema, labels) for schema, rows in self._rows.items() for labels in rows]

    def clear(self) -> None:
        for rows in self._rows.values():
            rows.clear()

    def move(self, fresh: dict[Key, Row]) -> None:
        """Put *fresh* rows in the place of the present ones, with what those hold. For who holds the lock."""
        for (schema, labels), row in fresh.items():
            old = self._rows[schema].get(labels)
            if old is not None and old[0] is not row[0]:
                _move(old, row, schema.width)
            self._rows[schema][labels] = row


def _move(old: Row, new: Row, width: int) -> None:
    (source, start), (columns, index) = old, new
    for offset in range(width):
        value = source[start + offset]
        # Another recorder may have the same row: it has nothing left to bring. First: both may be the same memory.
        source[start + offset] = 0.0
        columns[index + offset] += value
