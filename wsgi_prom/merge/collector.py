"""
The collector: all slots of a directory merged into one page's families.

A scrape reads the new keys and the values of each slot, adds up the columns that changed, and has only those children
computed and rendered again whose rows have other sums than before.
"""

# Rule 1: a counter never goes back. What a slot that can no longer be read, or is gone, has counted up to the last scrape
#         is shown for as long as the collector lives. Not its gauges, which are of the present.

from __future__ import annotations

import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.merge.client_files import ClientFiles
from wsgi_prom.merge.families import Families
from wsgi_prom.merge.layouts import Layout
from wsgi_prom.merge.readers import MemorySource, SlotSource
from wsgi_prom.merge.sums import Sums
from wsgi_prom.store import directory
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import Locks
from wsgi_prom.store.slots import MemorySlot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.file_format import Schema


@dataclass
class Report:
    """What the last scrape met. Seconds and bytes; *unreadable* are files that were left out."""

    readable: bool = True
    duration: float = 0.0
    slots_live: int = 0
    slots_free: int = 0
    value_bytes: int = 0
    unreadable: tuple[str, ...] = ()
    conflicts: int = 0


class Collector:
    """
    Merge what is in *path*, or in this process's memory if it is None.

    Not for two threads at once: hold a lock around `collect` and the reading of its result.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._slots: dict[int, SlotSource]
        self._begin()
        self.report = Report()

    def collect(self) -> Families:
        """
        Scrape. The families are the same objects at each call, brought up to date.

        Raises DirectoryError if the directory has never been read; a single file that cannot be is left out.
        """
        started = time.perf_counter()
        report = Report()
        readings = self._youngest(self._read(report))
        try:
            self._merge(readings)
        except BaseException:
            # Out of memory in the middle of it: the next scrape finds nothing half done, nor what took the memory.
            self._begin()
            raise
        report.duration = time.perf_counter() - started
        slots = [reading for reading in readings if reading.slot is not None]
        report.slots_live = sum(reading.live for reading in slots)
        report.slots_free = len(slots) - report.slots_live
        report.value_bytes = sum(len(reading.data) for reading in readings)
        report.conflicts = len(self._families.conflicts)
        self.report = report
        return self._families

    def _begin(self) -> None:
        self._slots = {}
        self._sums = Sums()
        self._families = Families(self._sums)
        self._root = Layout(self._sums.index, array("I"), [])
        self._client_files = None if self._path is None else ClientFiles(self._path, self._root)

    def _merge(self, readings: list[Reading]) -> None:
        self._sums.update(readings)
        if self._sums.orphaned:
            # A row is gone that no slot held. What was added up from it must go too.
            present = {reading.key for reading in readings}
            gone = [row for row in self._sums.rows.values() if row.key not in present]
            self._sums = Sums()
            self._root.move(self._sums.index)
            self._families = Families(self._sums)
            self._sums.update(readings, gone)
        self._families.update()

    def _read(self, report: Report) -> list[Reading]:
        readings: list[Reading] = []
        try:
            sources = self._sources()
        except OSError as error:
            if not any(row.slot is not None for row in self._sums.rows.values()):
                raise DirectoryError(f"{self._path} cannot be read: {error.strerror or error}") from error
            report.readable = False
            return readings
        for name, read in sources:
            try:
                readings += read()
            except Exception:
                # Whatever it is, memory that a damaged file asks for too: the others are shown.
                report.unreadable += (name,)
        if self._client_files is not None:
            report.unreadable += tuple(self._client_files.unreadable)
        return readings

    def _youngest(self, readings: list[Reading]) -> list[Reading]:
        """Leave out older copies of a slot: files that were away, and put back beside or in place of younger ones."""
        slots: dict[int, Reading] = {}
        for reading in sorted(readings, key=lambda reading: (reading.live, len(reading.data))):
            if reading.slot is not None and not self._sank(reading):
                slots[reading.slot] = reading
        return [reading for reading in readings if reading.slot is None or slots.get(reading.slot) is reading]

    def _sank(self, reading: Reading) -> bool:
        last = self._sums.rows.get(reading.key)
        if last is None or last.file == reading.file:
            return False
        reading.layout.move(self._sums.index)
        rows = self._sums.index.rows
        for number in last.layout.numbers:
            columns = _rising(rows[number][0])
            before, now = (
                array("d", row.layout.piece(row.data, number, number + 1)) for row in (last, reading)
            )
            if any(before[n] > (now[n] if now else 0.0) for n in columns):
                return True
        return False

    def _sources(self) -> list[tuple[str, Callable[[], list[Reading]]]]:
        if self._client_files is None or self._path is None:
            memory = current_slot.slot
            return (
                [("memory", MemorySource(memory, self._root).read)] if isinstance(memory, MemorySlot) else []
            )
        numbers = directory.slot_numbers(self._path)
        owners = directory.trusted(self._path)
        lock_file = None
        if numbers:
            with suppress(OSError, DirectoryError):
                lock_file = Locks.of(self._path)
        self._slots = {
            number: self._slots.get(number) or SlotSource(self._path, number, self._root)
            for number in numbers
        }
        return [
            *(
                (f"slot {number}", partial(slot.read, lock_file, owners))
                for number, slot in self._slots.items()
            ),
            ("client library", partial(self._client_files.read, owners)),
        ]


def _rising(schema: Schema) -> set[int]:
    """Return the columns that only grow: neither gauges nor sums, since observations may be negative."""
    falling = {n for metric in schema.metrics if metric.total for n in range(*metric.total)}
    gauge = any(metric.type == "gauge" for metric in schema.metrics)
    return set() if gauge else set(range(schema.width)) - falling
