"""
Enum metrics of the client library, recorded into the slot: the page shows the state that any process has set last.

What the library itself keeps and shows of them, in their own process, stays as it is. Nothing here raises into the
application.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import metrics

from wsgi_prom.client.bound_row import ROW, BoundRow
from wsgi_prom.client.watched_methods import watch
from wsgi_prom.store import schemas
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.store.memory_slot import Columns


def install(existing: Iterable[Any]) -> None:
    """Record what is made and set from now on, and the states of those Enums among *existing*. Call it once."""
    # Not after `_metric_init`: the library knows the states of an Enum only behind it.
    watch(metrics.Enum, "__init__", lambda metric, *_: _begin(metric))
    watch(metrics.Enum, "state", lambda metric, *_: _set(metric, None))
    for metric in existing:
        if isinstance(metric, metrics.Enum):
            with suppress(Exception):
                _begin(metric)
                if getattr(metric, "_value", 0):
                    # The library does not say when it was set: before any that is set from now on.
                    _set(metric, sys.float_info.min)


class StateRow(BoundRow):
    """The row of one Enum, or of one of its children: the ordinal of the state, and when the process has set it."""

    __slots__ = ()

    def move(self, columns: Columns, first: int, *, keep: bool) -> None:
        """Make a row, so that an Enum which nobody has set shows its first state; see `BoundRow`."""
        if keep and len(self._columns) > 2 and self._columns[self._start + 2] > columns[first + 1]:
            for column in (0, 1):
                columns[first + column] = self._columns[self._start + 1 + column]

    def set(self, state: str, when: float | None) -> None:
        ordinal = float(self.row[0].metrics[0].states.index(state))
        current_slot.prepare()
        with current_slot.lock:
            if not self.is_removed():
                self._columns[self._start + 1] = ordinal
                # Not before the former time: clocks are set back.
                former = self._columns[self._start + 2]
                self._columns[self._start + 2] = max(time.time(), former) if when is None else when


def _begin(metric: Any) -> None:
    # The parent of children has no state of its own.
    if not metric._labelnames or metric._labelvalues:
        # A state that is named twice has the first ordinal.
        states = tuple(dict.fromkeys(map(str, metric._states)))
        schema = schemas.states(metric._name, metric._documentation, tuple(metric._labelnames), states)
        setattr(metric, ROW, StateRow((schema, tuple(metric._labelvalues))))


def _set(metric: Any, when: float | None) -> None:
    getattr(metric, ROW).set(str(metric._states[metric._value]), when)
