"""
The texts that this process has recorded beside the numbers of its rows: exemplars, and what Info metrics say.

1. A text is the latest of one column of a row. It is kept here as long as the process lives, and goes along to each slot.
2. What finds no room, in a file or here, is left out, counted, and logged once.
"""

from __future__ import annotations

import logging
from array import array
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.store import schemas, text_format
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsgi_prom.store.current_slot import CurrentSlot
    from wsgi_prom.store.memory_slot import Slot
    from wsgi_prom.store.schemas import Row
    from wsgi_prom.store.text_format import Text

log = logging.getLogger("wsgi_prom")

_ERRORS: Final = schemas.counter(*metrics.ERRORS, ("stage",))
_STAGE: Final = "texts"
_COUNT: Final = (_ERRORS.metrics[0].count or (0, 1))[0]


class Texts:
    """The texts of the process whose slot is *current*; a `wsgi_prom.store.bindings.Binding`. Thread and fork safe."""

    def __init__(self, current: CurrentSlot) -> None:
        self._current = current
        self._own: dict[Row, dict[int, Text]] = {}
        # In bytes, as the records of a file have them.
        self._size = 0
        self._bound = False
        self._said = False

    def put(self, row: Row, column: int, text: Text) -> None:
        """Have *text* for *column* of *row*, in the place of the former one."""
        current = self._current
        if not current.fork_guard[0]:
            current.renew()
        if not self._bound:
            self._bound = True
            current.add(self)
        fits = len(text.text) <= text_format.LONGEST_TEXT
        if not fits:
            text = text._replace(text=b"")
        with current.lock:
            fits = self._keep(row, column, text) and self._write(current.slot, row, column) and fits
            if not fits:
                columns, first = current.row(_ERRORS, (_STAGE,))
                columns[first + _COUNT] += 1.0
            current.look_for_incomplete()
        # Without the lock: see `CurrentSlot.renew`.
        if not fits and not self._said:
            self._said = True
            log.warning(
                "an Info of more than %d bytes, or an exemplar beyond the first %d bytes of them, is left out; later ones are "
                "only counted, in wsgi_prom_errors_total",
                text_format.LONGEST_TEXT,
                text_format.LARGEST_FILE,
            )

    def get(self, row: Row, column: int) -> Text | None:
        """Return the last text that this process has put there."""
        if not self._current.fork_guard[1]:
            self._current.part_from_parent()
        with self._current.lock:
            return self._own.get(row, {}).get(column)

    def forget(self, row: Row) -> None:
        """Forget the texts of *row*, which is removed. The caller holds the current slot's lock."""
        for text in self._own.pop(row, {}).values():
            self._size -= text_format.capacity_of(len(text.text))

    def of(self, row: Row) -> Mapping[int, Text]:
        """Return the texts of *row* by column, for a collector in the same process."""
        return dict(self._own.get(row, {}))

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Write all into *slot*; see `Binding`. Those of a parent process stay there."""
        if not keep:
            self._own.clear()
            self._size = 0
        for row, texts in list(self._own.items()):
            for column in list(texts):
                self._write(slot, row, column)

    def _keep(self, row: Row, column: int, text: Text) -> bool:
        """Keep *text*, or leave it out: then the column has none."""
        texts = self._own.setdefault(row, {})
        former = texts.pop(column, None)
        if former is not None:
            self._size -= text_format.capacity_of(len(former.text))
        size = text_format.capacity_of(len(text.text))
        if self._size + size > text_format.LARGEST_FILE:
            return False
        texts[column] = text
        self._size += size
        return True

    def _write(self, slot: Slot, row: Row, column: int) -> bool:
        columns, first = slot.row(*row)
        # Else the row is in memory, and this is called again once it is not.
        if isinstance(slot, SharedSlot) and type(columns) is not array:
            return slot.write_text(first + column, self._own[row][column])
        return True


texts = Texts(current_slot)
