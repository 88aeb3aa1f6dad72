"""
Info metrics of the client library, recorded into the slot: the page shows what any process has set last.

What the library itself keeps and shows of them, in their own process, stays as it is. Nothing here raises into the
application.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prometheus_client import metrics

from wsgi_prom.client.bound_row import ROW, BoundRow
from wsgi_prom.client.watched_methods import watch
from wsgi_prom.store import text_labels
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.schemas import Metric, Schema
from wsgi_prom.store.text_format import Text
from wsgi_prom.store.texts import texts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsgi_prom.store.memory_slot import Columns


def install(existing: Iterable[Any]) -> None:
    """Record what is made and set from now on, and what those Info metrics of *existing* have been set to. Call it once."""
    watch(metrics.Info, "_metric_init", lambda metric, *_: _begin(metric))
    watch(metrics.Info, "info", lambda metric, *_: _set(metric))
    for metric in existing:
        # The parent of children has no text of its own.
        if isinstance(metric, metrics.Info) and (not metric._labelnames or metric._labelvalues):
            with suppress(Exception):
                _begin(metric)
                if metric._value:
                    _set(metric)


class InfoRow(BoundRow):
    """The row of one Info metric, or of one of its children. Its column has the time at which the process has set it."""

    __slots__ = ()

    def __init__(self, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]) -> None:
        metric = Metric("info", name, help_text, tuple(range(len(names))), count=(0, 1))
        super().__init__((Schema(names, 1, (metric,)), values))

    def move(self, columns: Columns, first: int, *, keep: bool) -> None:
        """Make a row, so that an Info which nobody has set is shown; see `BoundRow`."""
        if keep and len(self._columns) > 1:
            columns[first] = max(columns[first], self._columns[self._start + 1])

    def set(self, labels: dict[str, str]) -> None:
        current_slot.prepare()
        if self.is_removed():
            return
        with current_slot.lock:
            # Not before the row's start time, which a fresh slot has from now, nor before the former one: clocks are set back.
            now = max(time.time(), *self._columns[self._start : self._start + 2])
        texts.put(self.row, 0, Text(now, 1.0, text_labels.dump(labels)))
        with current_slot.lock:
            if not self.is_removed():
                self._columns[self._start + 1] = now


def _begin(metric: Any) -> None:
    row = InfoRow(metric._name, metric._documentation, tuple(metric._labelnames), tuple(metric._labelvalues))
    setattr(metric, ROW, row)


def _set(metric: Any) -> None:
    getattr(metric, ROW).set(metric._value)
