"""
Info metrics of the client library, recorded into the slot: the page shows what any process has set last.

What the library itself keeps and shows of them, in their own process, stays as it is. Nothing here raises into the
application.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from prometheus_client import metrics

from wsgi_prom.store import text_labels
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.schemas import Metric, Schema
from wsgi_prom.store.text_format import Text
from wsgi_prom.store.texts import texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.store.slots import Columns, Slot

# The attribute of an Info metric that holds its row.
_ROW = "_wsgi_prom_row"


def install(existing: Iterable[Any]) -> None:
    """Record what is made and set from now on, and what those Info metrics of *existing* have been set to. Call it once."""
    _after("_metric_init", _begin)
    _after("info", _set)
    for metric in existing:
        # The parent of children has no text of its own.
        if isinstance(metric, metrics.Info) and (not metric._labelnames or metric._labelvalues):
            with suppress(Exception):
                _begin(metric)
                if metric._value:
                    _set(metric)


class InfoRow:
    """The row of one Info metric, or of one of its children; a `wsgi_prom.store.bindings.Binding`."""

    __slots__ = ("__weakref__", "_columns", "_index", "_row")
    _columns: Columns
    _index: int

    def __init__(self, name: str, help_text: str, names: tuple[str, ...], values: tuple[str, ...]) -> None:
        # The column has the time at which the process has set it.
        metric = Metric("info", name, help_text, tuple(range(len(names))), count=(0, 1))
        self._row = Schema(names, 1, (metric,)), values
        current_slot.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """Have a row in *slot*, so that an Info which nobody has set is shown; see `Binding`."""
        former, index = (self._columns, self._index) if keep and hasattr(self, "_columns") else ([0.0], 0)
        self._columns, self._index = slot.row(*self._row)
        self._columns[self._index] = max(self._columns[self._index], former[index])

    def set(self, labels: dict[str, str]) -> None:
        now = time.time()
        texts.put(self._row, 0, Text(now, 1.0, text_labels.dump(labels)))
        with current_slot.lock:
            self._columns[self._index] = now


def _begin(metric: Any) -> None:
    row = InfoRow(metric._name, metric._documentation, tuple(metric._labelnames), tuple(metric._labelvalues))
    setattr(metric, _ROW, row)


def _set(metric: Any) -> None:
    getattr(metric, _ROW).set(metric._value)


def _after(name: str, record: Callable[[Any], None]) -> None:
    method = getattr(metrics.Info, name)

    @wraps(method)
    def recorded(metric: Any, *arguments: Any, **keywords: Any) -> None:
        method(metric, *arguments, **keywords)
        with suppress(Exception):
            record(metric)

    setattr(metrics.Info, name, recorded)
