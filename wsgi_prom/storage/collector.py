"""
The collector: all slots of a directory merged into one page's families.

A scrape reads the new keys and the values of each slot, adds up the columns of slots whose layout is the same, and
computes only the children of blocks whose sums changed.
"""

# Rule 1: a counter never goes back. What a slot that can no longer be read, or is gone, has counted up to the last scrape
#         is shown for as long as the collector lives. Not its gauges, which are of the present.

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from operator import add
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.storage import directory
from wsgi_prom.storage.families import Families
from wsgi_prom.storage.lease import lease
from wsgi_prom.storage.locks import Locks
from wsgi_prom.storage.slots import MemorySlot
from wsgi_prom.storage.sources import ClientSource, Layout, MemorySource, SlotSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wsgi_prom.storage.families import Child, Entry
    from wsgi_prom.storage.sources import Reading


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
        self._root = Layout([], [])
        self._slots: dict[int, SlotSource] = {}
        self._client_files: dict[Path, ClientSource] = {}
        # The last reading of each slot, by its nonce: there, and no longer there.
        self._last: dict[int, Reading] = {}
        self._generation = 0
        self._scrape = 0
        self._families = Families()
        self.report = Report()

    def collect(self) -> Families:
        """
        Scrape. The families are the same objects at each call, brought up to date.

        Raises DirectoryError if the directory has never been read; a single file that cannot be is left out.
        """
        started = time.perf_counter()
        report = Report()
        readings = self._youngest(self._read(report))
        found = {reading.slot: reading for reading in readings if reading.slot is not None}
        gone = {slot: reading for slot, reading in self._last.items() if slot not in found}
        self._last = {**gone, **found}
        if not self._merge(readings, gone.values()):
            # A block is gone that no slot held. What was added up from it must go too.
            self._generation += 1
            self._families = Families()
            self._merge(readings, gone.values())
        report.duration = time.perf_counter() - started
        slots = [reading for reading in readings if reading.slot is not None]
        report.slots_live = sum(reading.live for reading in slots)
        report.slots_free = len(slots) - report.slots_live
        report.value_bytes = sum(8 * len(reading.columns) for reading in readings)
        report.conflicts = len(self._families.conflicts)
        self.report = report
        return self._families

    def _read(self, report: Report) -> list[Reading]:
        readings: list[Reading] = []
        try:
            sources = self._sources()
        except OSError as error:
            if not self._last:
                raise DirectoryError(f"{self._path} cannot be read: {error.strerror or error}") from error
            report.readable = False
            return readings
        for name, read in sources:
            try:
                readings.append(read())
            except (OSError, FormatError):
                report.unreadable += (name,)
        return readings

    def _youngest(self, readings: list[Reading]) -> list[Reading]:
        """Leave out older copies of a slot: files that were away, and put back beside or in place of younger ones."""
        slots: dict[int, Reading] = {}
        for reading in sorted(readings, key=lambda reading: (reading.live, len(reading.columns))):
            if reading.slot is not None and not self._sank(reading, reading.slot):
                slots[reading.slot] = reading
        return [reading for reading in readings if reading.slot is None or slots.get(reading.slot) is reading]

    def _sank(self, reading: Reading, slot: int) -> bool:
        last = self._last.get(slot)
        if last is None or last.file == reading.file:
            return False
        free = {index for _, start, end in last.layout.gauges for index in range(start, end)}
        # Nor sums: observations may be negative.
        for (schema, _), (_, start, _) in zip(last.layout.blocks, last.layout.entries, strict=True):
            free.update(start + n for metric in schema.metrics if metric.total for n in range(*metric.total))
        pairs = zip_longest(last.columns, reading.columns, fillvalue=0.0)
        return any(now < before for index, (before, now) in enumerate(pairs) if index not in free)

    def _sources(self) -> list[tuple[str, Callable[[], Reading]]]:
        if self._path is None:
            memory = lease.slot
            return [("memory", MemorySource(memory).read)] if isinstance(memory, MemorySlot) else []
        numbers = directory.slot_numbers(self._path)
        client_files = directory.client_files(self._path)
        lock_file = None
        if numbers:
            with suppress(OSError, DirectoryError):
                lock_file = Locks.of(self._path)
        self._slots = {
            number: self._slots.get(number) or SlotSource(self._path, number, self._root)
            for number in numbers
        }
        self._client_files = {
            path: self._client_files.get(path) or ClientSource(path) for path in client_files
        }
        return [
            *((f"slot {number}", partial(slot.read, lock_file)) for number, slot in self._slots.items()),
            *((path.name, client_file.read) for path, client_file in self._client_files.items()),
        ]

    def _merge(self, readings: list[Reading], gone: Iterable[Reading]) -> bool:
        self._scrape += 1
        by_layout: dict[Layout, list[list[float]]] = {}
        for reading in chain(readings, gone):
            by_layout.setdefault(reading.layout, []).append(reading.columns)
            self._resolve(reading.layout)
        for layout, rows in by_layout.items():
            self._add(layout, rows[0] if len(rows) == 1 else list(map(sum, zip(*rows, strict=True))))
        for reading in readings:
            for entry, start, end in reading.layout.gauges:
                entry.readings.append((reading.pid, reading.live, reading.columns[start:end]))
        entries = self._families.entries.values()
        if any(entry.scrape != self._scrape for entry in entries):
            return False
        for child in _changed(entries):
            child.update()
        for entry in entries:
            if entry.readings or entry.had_readings:
                entry.had_readings, entry.readings = bool(entry.readings), []
        return True

    def _resolve(self, layout: Layout) -> None:
        if layout.generation == self._generation and len(layout.entries) == len(layout.blocks):
            return
        layout.generation, layout.entries, layout.gauges = self._generation, [], []
        start = 0
        for schema, labelvalues in layout.blocks:
            item = (self._families.entry(schema, labelvalues), start, start + schema.width)
            layout.entries.append(item)
            if any(metric.type == "gauge" for metric in schema.metrics):
                layout.gauges.append(item)
            start += schema.width

    def _add(self, layout: Layout, row: list[float]) -> None:
        scrape = self._scrape
        for entry, start, end in layout.entries:
            if entry.scrape == scrape:
                entry.sums = list(map(add, entry.sums, row[start:end]))
            else:
                entry.scrape = scrape
                entry.sums = row[start:end]


def _changed(entries: Iterable[Entry]) -> Iterable[Child]:
    changed = []
    for entry in entries:
        # A gauge changes with the life of its process too, not only with its value.
        if entry.sums != entry.totals or entry.readings or entry.had_readings:
            entry.totals = entry.sums
            changed.append(entry.children)
    return dict.fromkeys(chain.from_iterable(changed))
