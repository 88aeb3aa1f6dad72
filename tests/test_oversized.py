"""Files of any size or content that somebody else chose: no process that reads them ends, hangs or goes uncounted."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, schemas
from wsgi_prom.store import file_format as layout
from wsgi_prom.store.current_slot import CurrentSlot
from wsgi_prom.store.label_limit import NAME as LABELS
from wsgi_prom.store.label_limit import LabelSets
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.store.memory_slot import Slot

HITS = schemas.counter("hits", "Hits.", ("page",))
HUGE = 2**35
NONCE = 99
HEADER = layout.keys_header(NONCE)


def plant(path: Path, keys: bytes, committed: int, *, keys_size: int = 0, values_size: int = 4096) -> None:
    """Make the files of slot 0, with holes up to their sizes."""
    for kind, data, size in (
        ("keys", keys, keys_size),
        ("values", layout.pack_header(NONCE, committed), values_size),
    ):
        with (path / directory.slot_file(0, kind)).open("wb") as file:
            file.write(data)
            file.truncate(max(size, len(data)))


def plant_sparse_keys(path: Path) -> None:
    plant(path, HEADER, len(HEADER), keys_size=HUGE)


def plant_sparse_keys_that_are_committed(path: Path) -> None:
    plant(path, HEADER, HUGE, keys_size=HUGE)


def plant_sparse_values(path: Path) -> None:
    plant(path, HEADER, len(HEADER), values_size=HUGE)


def plant_wide_block(path: Path, **metric: Any) -> None:
    line = {
        "labels": ["a"],
        "width": 2**31,
        "metrics": [{"name": "evil", "help": "", "labels": [0], **metric}],
    }
    keys = HEADER + json.dumps(line).encode() + b'\n[0,"x"]\n'
    plant(path, keys, len(keys), values_size=HUGE)


def plant_wide_counter(path: Path) -> None:
    plant_wide_block(path, type="counter", total=[0, 1])


def plant_wide_gauge(path: Path) -> None:
    plant_wide_block(path, type="gauge", count=[0, 1], mode="all")


def plant_foreign_mode(path: Path) -> None:
    plant(path, HEADER, len(HEADER))
    for kind in directory.KINDS:
        (path / directory.slot_file(0, kind)).chmod(0)


def limit_memory() -> None:
    """Limit the process's memory to 768 MB more than the test runner has mapped by now."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 3 * 2**28, resource.RLIM_INFINITY))


class Tally:
    """A counter of what the process records."""

    def __init__(self, current_slot: CurrentSlot, page: str = "/") -> None:
        self._current_slot = current_slot
        self._page = page
        self._columns: Any = [0.0]
        self._index = 0
        current_slot.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        columns, index = slot.row(HITS, (self._page,))
        if columns is not self._columns:
            columns[index] += self._columns[self._index] if keep else 0.0
            self._columns, self._index = columns, index

    def inc(self) -> None:
        if not self._current_slot.fork_guard[0]:
            self._current_slot.prepare()
        self._columns[self._index] += 1.0


def hits(path: Path) -> list[float]:
    return [
        sample.value
        for metric in Collector(path).collect().to_metrics()
        if metric.name == "hits"
        for sample in metric.samples
    ]


@pytest.mark.parametrize(
    "planted",
    [
        plant_sparse_keys,
        plant_sparse_keys_that_are_committed,
        plant_sparse_values,
        plant_wide_counter,
        plant_wide_gauge,
        plant_foreign_mode,
    ],
)
def test_a_worker_that_meets_it_is_counted(
    in_child: Callable[..., Any], planted: Callable[[Path], None]
) -> None:
    """A worker that finds such a file starts, is counted, and takes no more memory or disk than it needs."""

    def run() -> tuple[list[float], bool, bool]:
        os.setresuid(65534, 65534, 65534)  # to whom a file without permissions is closed
        directory.prepare(shared)
        planted(shared)
        limit_memory()
        current_slot = CurrentSlot()
        tally = Tally(current_slot)
        current_slot.attach(shared)
        current_slot.prepare()
        tally.inc()
        used = sum(path.stat().st_blocks * 512 for path in shared.iterdir())
        return hits(shared), isinstance(current_slot.slot, SharedSlot), used < 2**20

    with tempfile.TemporaryDirectory() as folder:  # that user cannot get at pytest's
        Path(folder).chmod(0o777)
        shared = Path(folder) / "shared"
        assert ([1.0], True, True) == in_child(run)


def test_a_slot_is_left_that_there_is_no_memory_for(in_child: Callable[..., Any], shared: Path) -> None:
    """A slot of permitted size for which the process lacks memory is passed over and left unchanged."""

    def run() -> tuple[int, list[float]]:
        directory.prepare(shared)
        line = b"[0]\n"
        schema = layout.schema_line(schemas.counter("many", "Many.", ()))
        keys = HEADER + schema + line * ((layout.LARGEST_KEYS - len(HEADER) - len(schema)) // len(line))
        plant(shared, keys, len(keys), values_size=layout.LARGEST_VALUES)
        size = (shared / "wsgi_prom.0.keys").stat().st_size
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**27, resource.RLIM_INFINITY))
        current_slot = CurrentSlot()
        tally = Tally(current_slot)
        current_slot.attach(shared)
        tally.inc()
        assert isinstance(current_slot.slot, SharedSlot)
        columns, index = current_slot.slot.row(HITS, ("/",))
        assert size == (shared / "wsgi_prom.0.keys").stat().st_size
        return current_slot.slot.number, [columns[index]]

    assert (1, [1.0]) == in_child(run)


def test_a_slot_does_not_grow_beyond_what_others_read(
    in_child: Callable[..., Any], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows beyond the largest size of a slot are kept in memory, and the next owner of the slot finds the rest."""
    monkeypatch.setattr(layout, "LARGEST_KEYS", 4096)

    def run(page: str) -> tuple[int, bool]:
        slot = SharedSlot.claim(shared)
        for number in range(1000):
            columns, index = slot.row(HITS, (f"{page} {number}",))
            columns[index] += 1.0
        return slot.number, slot.error is not None

    assert [(0, True), (0, True)] == [in_child(run, page) for page in ("first", "second")]
    assert not list(shared.glob("*.bad"))
    found = hits(shared)
    assert 100 < len(found) < 1000
    assert {1.0} == set(found)


def test_a_label_file_of_any_size_ends_nobody(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """If the list of label sets is too large, the limit holds in each process alone, and the list does not grow."""

    def run() -> tuple[list[bool], int]:
        with (tmp_path / LABELS).open("wb") as file:
            file.truncate(HUGE)
        limit_memory()
        sets = LabelSets(tmp_path, 2)
        allowed = [sets.allow("hits", (page,)) for page in ("a", "b", "c", "a")]
        return allowed, (tmp_path / LABELS).stat().st_size

    assert ([True, True, False, True], HUGE) == in_child(run)


def test_whatever_a_binding_raises_stays_in_the_current_slot(
    in_child: Callable[..., Any], shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """
    An error of a binding is logged once, retried, and not raised into a hook; other records are on the page meanwhile.
    """

    class Failing(Tally):
        fails = False

        def bind(self, slot: Slot, *, keep: bool) -> None:
            if self.fails:
                raise MemoryError
            super().bind(slot, keep=keep)

    def run() -> tuple[list[float], list[int], list[float], list[str]]:
        now = 0.0
        current_slot = CurrentSlot(clock=lambda: now)
        failing, tally = Failing(current_slot, "/failing"), Tally(current_slot)
        failing.inc()
        failing.fails = True
        with caplog.at_level(logging.INFO):
            current_slot.attach(shared)
            current_slot.prepare()
            tally.inc()
            without = hits(shared)
            failures = [current_slot.check(), current_slot.check()]
            failing.fails = False
            failures.append(current_slot.check())
        return without, failures, hits(shared), [record.getMessage() for record in caplog.records]

    without, failures, found, said = in_child(run)
    assert ([1.0], [1.0, 1.0]) == (without, found)
    assert 0 < failures[0]
    assert 0 == failures[-1]
    assert 2 == len(said), said
    assert "MemoryError" in said[0]


def test_a_file_that_grows_is_not_written_to_where_values_are(
    in_child: Callable[..., Any], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record is lost on a file system without fallocate, where the C library reads bytes and writes them back."""

    def run() -> tuple[float, float]:
        slot = SharedSlot.claim(shared)
        columns, index = slot.row(HITS, ("/",))
        recorded = 0.0

        def emulated(fd: int, offset: int, length: int) -> None:
            nonlocal recorded
            before = os.pread(fd, length, offset)
            columns[index] += 1.0  # another thread
            recorded += 1.0
            os.pwrite(fd, before + bytes(length - len(before)), offset)

        monkeypatch.setattr(os, "posix_fallocate", emulated)
        for number in range(3000):
            slot.row(HITS, (str(number),))
        return recorded, columns[index]

    recorded, found = in_child(run)
    assert recorded > 2
    assert recorded == found


def test_holes_in_a_slot_are_filled_when_it_is_claimed(in_child: Callable[..., Any], shared: Path) -> None:
    """
    A sparse copy of a slot gets its space reserved when it is claimed, since a store to a hole on a full disk is
    SIGBUS.
    """

    def use(amount: float) -> float:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        slot = SharedSlot.claim(shared)
        columns, index = slot.row(HITS, ("/",))
        columns[index] += amount
        for number in range(2000):
            slot.row(HITS, (str(number),))
        return columns[index]

    assert 3.0 == in_child(use, 3.0)
    values = shared / "wsgi_prom.0.values"
    data = values.read_bytes()
    with values.open("r+b") as file:
        file.truncate(4096)
        file.truncate(len(data))
    assert values.stat().st_blocks * 512 < len(data)
    assert 4.0 == in_child(use, 1.0)
    assert values.stat().st_blocks * 512 >= 8 * 2001
