"""
The blocks that a recorder has met, each where it is in the slot that is in force.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.store import turns
from wsgi_prom.store.current_slot import lease

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.store.file_format import Schema
    from wsgi_prom.store.slots import Columns

    Block = tuple[Columns, int]
    Key = tuple[Schema, tuple[str, ...]]


def columns_of(block: Block, width: int) -> Columns:
    """Return the *width* columns of *block* alone: a store to them needs no addition, and no pair to be taken apart."""
    columns, first = block
    # An array is one of its own.
    return columns[first : first + width] if isinstance(columns, memoryview) else columns


class InProgress:
    """
    How many requests this process is serving, and the column that shows it.

    Whoever stores to it holds the lease's lock, or needs none.
    """

    __slots__ = ("columns", "count", "shown")

    def __init__(self) -> None:
        self.columns: Columns = [0.0]
        # Not read back from the slot: what is lost there while requests are under way would make it negative.
        self.count = 0.0
        # Whether the column is a row of the slot, as it is once a recorder has asked for that.
        self.shown = False

    def move(self, block: Block | None) -> None:
        """Show it in *block* from now on, if there is one."""
        if block is not None:
            self.columns = columns_of(block, 1)
            self.columns[0] = self.count

    def enter(self, request: Any) -> None:
        """Take *request* into those in progress, with the lease's lock, which is its token."""
        lock = lease.lock
        try:
            turns.take(lock)
            self.columns[0] = self.count = self.count + 1.0
            request.token = lock
        finally:
            try:  # noqa: SIM105 - nothing may come between `finally` and the release
                lock.release()
            except RuntimeError:
                pass

    def dismiss(self, request: Any) -> None:
        """Take *request* out of those in progress, if it is one of them."""
        lock = getattr(request, "token", None)
        if lock is lease.lock and lease.alive[1]:
            with lock:
                if request.token is not None:  # not counted by another thread meanwhile
                    self.columns[0] = self.count = self.count - 1.0
                    request.token = None
        request.token = None


_in_progress: Final[dict[Schema | None, InProgress]] = {}


def in_progress(schema: Schema | None) -> InProgress:
    """Return what is in progress by the gauge of *schema*, which several recorders may share."""
    return _in_progress.setdefault(schema, InProgress())


class Blocks:
    """
    Blocks by schema and labels, of *schemas* alone.

    Thread safe; whoever stores to a block holds the lease's lock, and has looked it up since he has.
    """

    def __init__(self, schemas: Iterable[Schema | None]) -> None:
        self._blocks: dict[Schema, dict[tuple[str, ...], Block]] = {
            schema: {} for schema in schemas if schema is not None
        }

    def __contains__(self, key: Key) -> bool:
        return key[1] in self._blocks[key[0]]

    def get(self, schema: Schema, labels: tuple[str, ...]) -> Block | None:
        return self._blocks[schema].get(labels)

    def find(self, schema: Schema, labels: tuple[str, ...]) -> Block:
        """Return a block, made at the first call. Not for a caller who holds the lease's lock."""
        while True:
            block = self._blocks[schema].get(labels)
            if block is not None:
                return block
            slot = lease.slot
            block = slot.block(schema, labels)
            with lease.lock:
                # Another thread may have claimed one meanwhile, and moved what it knew of.
                if slot is lease.slot:
                    self._blocks[schema][labels] = block

    def known(self) -> list[Key]:
        return [(schema, labels) for schema, blocks in self._blocks.items() for labels in blocks]

    def unplaced(self) -> list[Key]:
        """Return those that are kept in memory, since their slot had no space for them."""
        return [(schema, labels) for schema, labels in self.known() if self._in_memory(schema, labels)]

    def clear(self) -> None:
        for blocks in self._blocks.values():
            blocks.clear()

    def move(self, fresh: dict[Key, Block]) -> None:
        """Put *fresh* blocks in the place of the present ones, with what those hold. For who holds the lock."""
        for (schema, labels), block in fresh.items():
            old = self._blocks[schema].get(labels)
            if old is not None and old[0] is not block[0]:
                _move(old, block, schema.width)
            self._blocks[schema][labels] = block

    def _in_memory(self, schema: Schema, labels: tuple[str, ...]) -> bool:
        return isinstance(self._blocks[schema][labels][0], array)


def _move(old: Block, new: Block, width: int) -> None:
    (source, start), (columns, index) = old, new
    for offset in range(width):
        value = source[start + offset]
        # Another recorder may have the same block: it has nothing left to bring. First: both may be the same memory.
        source[start + offset] = 0.0
        columns[index + offset] += value
