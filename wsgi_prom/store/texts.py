"""
The texts that this process has recorded beside the numbers of its rows: exemplars, and what Info metrics say.

1. A text is the latest of one column of a row. It is kept here as long as the process lives, and goes along to each slot.
2. A text for which a file, or this process, has no space is left out, counted, and logged once; its column has an empty one.
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


class Texts:
    """The texts of the process whose slot is *current*; a `wsgi_prom.store.bindings.Binding`. Thread and fork safe."""

    def __init__(self, current: CurrentSlot) -> None:
        self._current = current
        self._own: dict[Row, _RowTexts] = {}
        # In bytes, as the records of a file have them.
        self._size = 0
        self._bound = False
        self._said = False

    def put(self, row: Row, column: int, text: Text) -> None:
        """Store *text* for *column* of *row*, in the place of the former one."""
        current = self._current
        current.prepare()
        if not self._bound:
            self._bound = True
            current.add(self)
        fits = len(text.text) <= text_format.LONGEST_TEXT
        if not fits:
            text = text._replace(text=b"")
        with current.lock:
            own = self._own.get(row)
            if own is None:
                own = self._own[row] = _RowTexts(row)
            fits = self._keep(own, column, text) and fits
            if column in own.texts:
                fits = own.write(current.slot, column) and fits
            if not fits:
                columns, first = current.row(_ERRORS, (_STAGE,))
                columns[first] += 1.0
            current.retry_if_incomplete()
        # Without the lock: see `CurrentSlot.prepare`.
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
        return self.of(row).get(column)

    def forget(self, row: Row) -> None:
        """Forget the texts of *row*, which is removed. The caller holds the current slot's lock."""
        own = self._own.pop(row, None)
        if own is not None:
            self._size -= sum(text_format.capacity_of(len(text.text)) for text in own.texts.values())

    def of(self, row: Row) -> Mapping[int, Text]:
        """Return the texts of *row* by column."""
        self._current.part_from_parent()
        with self._current.lock:
            own = self._own.get(row)
            return {} if own is None else dict(own.texts)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Write all into *slot*; see `Binding`. Those of a parent process stay there."""
        if not keep:
            self._own.clear()
            self._size = 0
        for own in list(self._own.values()):
            own.slot = None
            for column in list(own.texts):
                own.write(slot, column)

    def _keep(self, own: _RowTexts, column: int, text: Text) -> bool:
        """Keep *text*. Returns False if there is no space for it; an empty one is kept then."""
        former = own.texts.get(column)
        if former is not None and former.time > text.time:  # the clock was set back
            text = text._replace(time=former.time)
        # An empty one is not longer than a former one.
        for kept in (text, text._replace(text=b"")):
            size = self._size + text_format.capacity_of(len(kept.text))
            if former is not None:
                size -= text_format.capacity_of(len(former.text))
            if size <= text_format.LARGEST_FILE:
                self._size = size
                own.texts[column] = kept
                return kept is text
        return False


class _RowTexts:
    """The *texts* of one row by column, and where the columns are in the files of *slot*, once they are known."""

    __slots__ = ("_first", "_row", "slot", "texts")

    def __init__(self, row: Row) -> None:
        self._row = row
        self._first = 0
        self.slot: Slot | None = None
        self.texts: dict[int, Text] = {}

    def write(self, slot: Slot, column: int) -> bool:
        """Write the text of *column* into the files of *slot*. Returns False if they have no room for it."""
        if not isinstance(slot, SharedSlot):
            return True
        if self.slot is not slot:
            columns, self._first = slot.row(*self._row)
            if type(columns) is array:
                return True  # in memory, and `bind` is called again once the row is not
            self.slot = slot
        return slot.write_text(self._first + column, self.texts[column])


texts = Texts(current_slot)
