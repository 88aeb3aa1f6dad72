"""The objects that record into a process's slot. Each is told when the process records into another slot."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.store.slots import Slot


class Binding(Protocol):
    """Something that records: it keeps views of a slot's columns, and is told when they are no longer the right ones."""

    def bind(self, slot: Slot, *, keep: bool) -> None:
        """
        Record into *slot* from now on.

        With *keep*, what was recorded since the last call goes along; without, it belongs to the parent process.
        """

    def forget(self) -> None:
        """The values of the slot are gone: what its columns hold now was recorded since."""

    def settle(self, slot: Slot) -> None:
        """Bind what *slot* had no space for, as far as it has now."""


class Bindings:
    """
    The bindings of one current slot, each for as long as somebody refers to it. *current* returns the current slot's current slot.

    Not thread safe: the caller holds the current slot's gate. A binding that is collected removes itself without it.
    """

    def __init__(self, current: Callable[[], Slot]) -> None:
        self._current = current
        # A dict for its order: slots of one order of keys share a layout.
        self._references: dict[weakref.ref[Binding], None] = {}
        # Those that are not bound to the slot, since something came between.
        self._behind: list[Binding] = []

    def __iter__(self) -> Iterator[Binding]:
        found = [reference() for reference in list(self._references)]
        return iter([binding for binding in found if binding is not None])

    def add(self, binding: Binding) -> None:
        self._references[weakref.ref(binding, lambda gone: self._references.pop(gone, None))] = None
        self.bind(binding, keep=True)

    def bind(self, binding: Binding, *, keep: bool) -> None:
        slot = None
        while slot is not self._current():  # a signal handler may have claimed one in the middle of it
            slot = self._current()
            binding.bind(slot, keep=keep)
            keep = True

    def bind_all(self, *, keep: bool) -> None:
        """Bind all to the current slot. An error of one does not keep the others from it; the last error is raised."""
        self._behind = list(self)
        self.catch_up(keep=keep)

    def catch_up(self, *, keep: bool) -> None:
        """Bind those that are not, after `bind_all` has raised."""
        bindings, self._behind = self._behind, []
        failed = None
        for binding in bindings:
            try:
                self.bind(binding, keep=keep)
            except Exception as error:
                self._behind.append(binding)
                failed = error
        if failed is not None:
            raise failed
