"""
The collector: everything in a directory merged into one page's families.

1. Each collection adds up and makes all values anew. What is kept from one to the next are the keys that were read, and each
   source's last reading.
2. A counter never goes back. A slot that is gone or can no longer be read counts with its last reading for as long as the
   collector lives; its gauges do not, since they tell the present.
"""

from __future__ import annotations

import math
import operator
import os
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.merge import answers
from wsgi_prom.merge.answers import AnswerFiles
from wsgi_prom.merge.client_files import ClientFiles
from wsgi_prom.merge.families import Families
from wsgi_prom.merge.readers import ExitsSource, Layout, SlotSource, read_memory
from wsgi_prom.merge.slot_texts import SlotTexts
from wsgi_prom.merge.sums import Sums
from wsgi_prom.store import directory, exit_counts
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.memory_slot import MemorySlot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from pathlib import Path

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.answer_file import Record
    from wsgi_prom.store.schemas import Row, Schema


@dataclass
class Report:
    """Figures of the last collection, in seconds and bytes. *unreadable* are files that were left out."""

    readable: bool = True
    duration: float = 0.0
    slots_live: int = 0
    slots_free: int = 0
    value_bytes: int = 0
    unreadable: tuple[str, ...] = ()
    conflicts: int = 0


class Collector:
    """
    Merge what is in the directory *path*, or in this process's memory if it is None.

    With *only*, merge nothing but what the slot of that number has. Not thread safe: hold a lock around `collect` and the use
    of its result.
    """

    def __init__(self, path: Path | None, only: int | None = None) -> None:
        self._path = path
        self._only = only
        self.report = Report()
        self._begin()

    def collect(self, *, without: Collection[str] = ()) -> Families:
        """
        Collect. Each call returns the same families, or new ones if a series is gone, and changes their values.

        *without* are names of custom collectors whose figures are left out.
        Raises DirectoryError if the directory has never been read; a single file that cannot be read is left out.
        """
        started = time.perf_counter()
        report = Report()
        readings = self._youngest(self._read(report))
        report.unreadable += tuple(self._texts.read(self._names, readings, self._owners))
        try:
            self._merge(readings)
        except BaseException:
            # Out of memory, perhaps: the next collection finds nothing half done, nor what filled the memory.
            self._begin()
            raise
        slots = [reading for reading in readings if reading.nonce is not None]
        conflicts = self._add_answers(slots, report, without)
        report.duration = time.perf_counter() - started
        report.slots_live = sum(reading.live for reading in slots)
        report.slots_free = len(slots) - report.slots_live
        report.value_bytes = sum(len(reading.data) for reading in readings)
        left_out = self._families.conflicts | conflicts
        # A counter is left out by its name without _total.
        shown = [
            name
            for name in self._families.taken()
            if left_out.isdisjoint({name, name.removesuffix("_total")})
        ]
        report.conflicts = len(left_out) + len(shown)
        self.report = report
        return self._families

    @property
    def slots(self) -> list[Reading]:
        """The slots as they were last read. Nobody lives in one that is gone."""
        return [
            reading if key in self._present else replace(reading, live=False)
            for key, reading in self._last.items()
            if reading.nonce is not None
        ]

    def _begin(self) -> None:
        self._root = Layout()
        # The files of the directory, as it was listed last, and the users whose files count.
        self._names: frozenset[str] = frozenset()
        self._owners: frozenset[int] | None = None
        self._slots: dict[int, SlotSource] = {}
        self._exits: dict[int, ExitsSource] = {}
        shared = self._path if self._only is None else None
        self._client_files = None if shared is None else ClientFiles(shared)
        self._answers = None if self._path is None else AnswerFiles(self._path)
        # By key, in the order in which the sources were met, which is that of the terms of a sum.
        self._last: dict[Hashable, Reading] = {}
        self._present: set[Hashable] = set()
        self._layouts: list[Layout] = []
        self._sums = Sums()
        self._families = Families(self._sums)
        self._texts = SlotTexts(self._path)

    def _merge(self, readings: list[Reading]) -> None:
        present = {reading.key: reading for reading in readings}
        self._present = set(present)
        for key in [key for key, last in self._last.items() if not last.kept and key not in present]:
            del self._last[key]
        self._last.update(present)
        layouts = [reading.layout for reading in self._last.values()]
        if layouts != self._layouts and not self._sums.number_rows(layouts):
            # A row is gone: a client library's file was removed, for instance. The numbers are given anew.
            self._sums = Sums()
            self._families = Families(self._sums)
            self._sums.number_rows(layouts)
        self._layouts = layouts
        self._sums.update(self._last.values(), readings)
        self._sums.texts = self._texts.latest(self._sums, self._last.values())
        self._families.update()

    def _add_answers(self, slots: list[Reading], report: Report, without: Collection[str]) -> set[str]:
        """
        Add to the families what collectors and functions of gauges have told; return the names of metrics that were left out.
        """
        records: list[tuple[str, Record]] = []
        if self._answers is not None and report.readable:
            try:
                records, unreadable = self._answers.read(self._names, slots, self._owners)
                report.unreadable += tuple(unreadable)
            except (OSError, DirectoryError):  # gone since the slots were read
                report.readable = False
        records = [item for item in records if item[1].collector not in without]
        merged = answers.merge(records, self._families)
        self._families.others, self._families.more = merged.metrics, merged.more
        return merged.conflicts

    def _read(self, report: Report) -> list[Reading]:
        readings: list[Reading] = []
        try:
            sources = self._sources()
        except OSError as error:
            if not any(last.nonce is not None for last in self._last.values()):
                raise DirectoryError(f"{self._path} cannot be read: {error.strerror or error}") from error
            report.readable = False
            return readings
        for name, read in sources:
            try:
                readings += read()
            except Exception:
                # Any error, also of memory that a damaged file asks for: the others are shown.
                report.unreadable += (name,)
        if self._client_files is not None:
            report.unreadable += tuple(self._client_files.unreadable)
        return readings

    def _youngest(self, readings: list[Reading]) -> list[Reading]:
        """Leave out older copies of a slot: files that were moved away, and put back beside or instead of younger ones."""
        slots: dict[int, Reading] = {}
        for reading in sorted(readings, key=lambda reading: (reading.live, len(reading.data))):
            if reading.nonce is not None and not self._is_older(reading):
                slots[reading.nonce] = reading
        return [
            reading for reading in readings if reading.nonce is None or slots.get(reading.nonce) is reading
        ]

    def _is_older(self, reading: Reading) -> bool:
        """
        Return whether *reading* is of another file than the last one of its slot, and has lower counts.

        A row that was removed says nothing, nor does one that counts from a later time on: it was removed and used again.
        """
        last = self._last.get(reading.key)
        if last is None or last.file == reading.file:
            return False
        now = _counts(reading)
        for row, (start, counts) in _counts(last).items():
            start_now, counts_now = now.get(row, (start, [0.0] * len(counts)))
            if start_now <= start and any(map(operator.gt, counts, counts_now)):
                return True
        return False

    def _sources(self) -> list[tuple[str, Callable[[], list[Reading]]]]:
        if self._path is None:
            memory = current_slot.slot
            return [("memory", partial(read_memory, memory))] if isinstance(memory, MemorySlot) else []
        numbers = [n for n in directory.slot_numbers(self._path) if self._only in {None, n}]
        self._owners = owners = directory.trusted_uids(self._path)
        lock_file = None
        if numbers:
            with suppress(OSError, DirectoryError):
                lock_file = LockFile.of(self._path)
        self._slots = {
            number: self._slots.get(number) or SlotSource(self._path, number, self._root)
            for number in numbers
        }
        self._names = frozenset(os.listdir(self._path))
        if self._only is not None:
            own = directory.slot_file(self._only, "")
            self._names = frozenset([name for name in self._names if name.startswith(own)])
        arbiters = exit_counts.numbers(self._names)
        self._exits = {
            number: self._exits.get(number) or ExitsSource(self._path, number, self._root)
            for number in arbiters
        }
        return [
            *(
                (f"slot {number}", partial(slot.read, lock_file, owners))
                for number, slot in self._slots.items()
            ),
            *((exit_counts.name(number), exits.read) for number, exits in self._exits.items()),
            *([("client library", partial(self._client_files.read, owners))] if self._client_files else []),
        ]


def _counts(reading: Reading) -> dict[Row, tuple[float, list[float]]]:
    """
    Return since when each row counts, and its columns that only grow: neither gauges, nor sums, since observations may be
    negative.
    """
    by_row = {}
    columns = array("d", reading.data)
    for number, (row, start) in enumerate(zip(reading.layout.rows, reading.layout.starts, strict=False)):
        since = math.inf if number in reading.removed else columns[start]
        by_row[row] = since, [columns[start + 1 + n] for n in _rising(row[0])]
    return by_row


def _rising(schema: Schema) -> list[int]:
    if any(metric.type in {"gauge", "info", "stateset"} for metric in schema.metrics):
        return []
    totals = {n for metric in schema.metrics if metric.total for n in range(*metric.total)}
    return [n for n in range(schema.width) if n not in totals]
