"""
The collector: all slots of a directory merged into one page's families.

A scrape reads the new keys and the values of each slot, adds up the columns of slots whose layout is the same, and
computes only the children of blocks whose sums changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain
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
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from wsgi_prom.storage.families import Child, Entry
    from wsgi_prom.storage.sources import Reading


@dataclass
class Report:
    """What the last scrape met. Seconds and bytes; *unreadable* are files that were left out."""

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
        self._generation = 0
        self._scrape = 0
        self._families = Families()
        self.report = Report()

    def collect(self) -> Families:
        """
        Scrape. The families are the same objects at each call, brought up to date.

        Raises DirectoryError if the directory cannot be read at all; a single file that cannot is left out.
        """
        started = time.perf_counter()
        readings, unreadable = self._read()
        if not self._merge(readings):
            # A block is gone: its slot was replaced, or cannot be read. What was added up from it must go too.
            self._generation += 1
            self._families = Families()
            self._merge(readings)
        self.report = Report(
            duration=time.perf_counter() - started,
            slots_live=sum(reading.live for reading in readings),
            slots_free=sum(not reading.live for reading in readings),
            value_bytes=sum(8 * len(reading.columns) for reading in readings),
            unreadable=tuple(unreadable),
            conflicts=len(self._families.conflicts),
        )
        return self._families

    def _read(self) -> tuple[list[Reading], list[str]]:
        readings, unreadable = [], []
        for name, read in self._sources():
            try:
                readings.append(read())
            except (OSError, FormatError):
                unreadable.append(name)
        return readings, unreadable

    def _sources(self) -> Iterator[tuple[str, Callable[[], Reading]]]:
        if self._path is None:
            if isinstance(lease.slot, MemorySlot):
                yield "memory", MemorySource(lease.slot).read
            return
        try:
            numbers = directory.slot_numbers(self._path)
            client_files = directory.client_files(self._path)
            lock_file = Locks.of(self._path) if numbers else None
        except OSError as error:
            raise DirectoryError(f"{self._path} cannot be read: {error.strerror or error}") from error
        self._slots = {
            number: self._slots.get(number) or SlotSource(self._path, number, lock_file, self._root)
            for number in numbers
            if lock_file is not None
        }
        self._client_files = {
            path: self._client_files.get(path) or ClientSource(path) for path in client_files
        }
        for number, slot in self._slots.items():
            yield f"slot {number}", slot.read
        for path, client_file in self._client_files.items():
            yield path.name, client_file.read

    def _merge(self, readings: list[Reading]) -> bool:
        self._scrape += 1
        by_layout: dict[Layout, list[list[float]]] = {}
        for reading in readings:
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
            if entry.readings:
                entry.readings = []
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
        if entry.sums != entry.totals or entry.readings:
            entry.totals = entry.sums
            changed.append(entry.children)
    return dict.fromkeys(chain.from_iterable(changed))
