"""The objects that record into a process's slot. Each is told when the process records into another slot."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.store.memory_slot import Slot


class Binding(Protocol):
    """Something that records: it keeps views of the columns of a slot, and is told which slot to use."""

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """
        Record into *slot* from now on; rows that are bound to it already stay as they are.

        With *keep*, what was recorded so far goes along. Without, the former columns are not looked at: they are a parent
        process's, or damaged. The caller holds the current slot's lock.
        """


class RemovableBinding:
    """A binding to a row that any process may remove."""

    __slots__ = ()

    def forget_removed(self) -> None:
        """Record to nothing from now on if the row was removed. The caller holds the current slot's lock."""
        raise NotImplementedError


class Bindings:
    """
    The bindings of a process, each for as long as somebody refers to it. *current* returns the process's slot.

    The caller holds the current slot's lock. A binding that is collected removes itself without it.
    """

    def __init__(self, current: Callable[[], Slot]) -> None:
        self._current = current
        # A dict for its order: processes that meet label sets in one order share a layout when they are merged.
        self._references: dict[weakref.ref[Binding], None] = {}

    def add(self, binding: Binding) -> None:
        self._references[weakref.ref(binding, lambda gone: self._references.pop(gone, None))] = None
        self._bind(binding, keep=True)

    def bind_all(self, *, keep: bool) -> None:
        """Bind all to the current slot. An error of one does not keep the others from it; the last error is raised."""
        failed: Exception | None = None
        for reference in list(self._references):
            binding = reference()
            if binding is not None:
                try:
                    self._bind(binding, keep=keep)
                except Exception as error:
                    failed = error
        if failed is not None:
            raise failed

    def forget_removed(self) -> None:
        """Have all let go of rows that were removed, in columns that can be read."""
        for reference in list(self._references):
            binding: object = reference()
            if isinstance(binding, RemovableBinding):
                binding.forget_removed()

    def _bind(self, binding: Binding, *, keep: bool) -> None:
        slot = None
        while slot is not self._current():  # a signal handler may have claimed one in the middle of it
            slot = self._current()
            binding.bind(slot, keep=keep)
            keep = True
