"""
Bounds of a scrape: sparse, huge or damaged files and those of another user are left out, and all others are shown.
"""

from __future__ import annotations

import os
import resource
import struct
from typing import TYPE_CHECKING

import processes
import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.archiving import Archiver
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import archive, directory, schemas
from wsgi_prom.store import file_format as layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HITS = schemas.counter("hits", "Hits.", ())
HUGE = 2**35


def write_slot(path: Path, number: int, schema: schemas.Schema, *, committed: int = 0) -> None:
    keys = (
        layout.keys_header(number)
        + layout.schema_line(schema)
        + layout.row_line(0, ("x",) * len(schema.labelnames))
    )
    (path / directory.slot_file(number, "keys")).write_bytes(keys)
    values = layout.pack_header(number, committed or len(keys)) + struct.pack("2d", 0.0, 1.0)
    (path / directory.slot_file(number, "values")).write_bytes(values)


def write_client_file(path: Path, name: str) -> None:
    file = MmapedDict(str(path / name))
    file.write_value(mmap_key("jobs", "jobs_total", [], [], "Jobs."), 2.0, 0.0)
    file.close()


def stretch(path: Path) -> None:
    os.truncate(path, HUGE)


def wide(path: Path) -> None:
    metric = schemas.Metric("counter", "evil", "Help.", (0,), count=(0, 1))
    write_slot(path, 7, schemas.Schema(("a",), 2**31, (metric,)))
    stretch(path / "wsgi_prom.7.values")


def sparse_keys(path: Path) -> None:
    write_slot(path, 7, HITS, committed=2**34)
    stretch(path / "wsgi_prom.7.keys")


def sparse_client_file(path: Path) -> None:
    (path / "counter_7.db").write_bytes(struct.pack("i", 2**31 - 1))
    stretch(path / "counter_7.db")


def client_file_of_zeros(path: Path) -> None:
    (path / "counter_7.db").write_bytes(struct.pack("i", 2**27))
    stretch(path / "counter_7.db")


def sparse_archive(path: Path) -> None:
    (path / archive.NAME).write_bytes(b"wsgi_prom archive 1 5\n[[],[]]\n")
    stretch(path / archive.NAME)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a schema of 2^31 columns": (wide, "slot 7"),
    "keys of 16 GB": (sparse_keys, "slot 7"),
    "a client file of 2 GB": (sparse_client_file, "counter_7.db"),
    "a client file of zeros": (client_file_of_zeros, "counter_7.db"),
    "an archive of 32 GB": (sparse_archive, archive.NAME),
}


@pytest.mark.parametrize(("harm", "source"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_huge_file_is_left_out_alone(harm: Callable[[Path], None], source: str, shared: Path) -> None:
    """
    A huge file is counted as unreadable while everything else is shown, within 1 GB; without the file the page is
    whole.
    """
    directory.prepare(shared)
    write_slot(shared, 0, HITS)
    write_client_file(shared, "counter_5.db")
    before = set(shared.iterdir())
    harm(shared)

    def scrape() -> list[object]:
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        collector, archiver = Collector(shared), Archiver(shared)
        found: list[object] = []
        for _ in range(2):
            found.append((render(collector.collect()), collector.report.unreadable))
            archiver.archive_ended()
        for path in (
            set(shared.iterdir()) - before - {shared / archive.NAME if harm is not sparse_archive else None}
        ):
            path.unlink()
        return [*found, render(collector.collect()), collector.report.unreadable]

    first, second, page, unreadable = processes.in_child(scrape)  # type: ignore[misc]
    assert first == second
    assert (page, (source,)) == first
    assert unreadable == ()
    assert "hits_total 1.0" in page
    assert "jobs_total 2.0" in page


def test_a_huge_lock_file_changes_nothing(shared: Path) -> None:
    """The length of the lock file does not matter, since nobody reads its content."""
    directory.prepare(shared)
    write_slot(shared, 0, HITS)
    stretch(shared / "wsgi_prom.lock")
    assert "hits_total 1.0" in render(Collector(shared).collect())


STRANGER = 12345


@pytest.mark.parametrize("mode", [0o700, 0o770, 0o1777])
def test_files_of_a_third_user_do_not_count(mode: int, shared: Path) -> None:
    """
    Only files of the directory's owner and of root are shown, whoever can write to the directory; others are reported.
    """
    directory.prepare(shared)
    for number, schema in enumerate((HITS, schemas.counter("planted", "Help.", ()))):
        write_slot(shared, number, schema)
    write_client_file(shared, "counter_5.db")
    for name in ("wsgi_prom.1.keys", "wsgi_prom.1.values", "counter_5.db"):
        os.chown(shared / name, STRANGER, STRANGER)
    shared.chmod(mode)
    collector = Collector(shared)
    text = render(collector.collect())
    names = {line.split()[0] for line in text.splitlines() if line[0] != "#"}
    assert {"hits_total"} == names
    assert ("slot 1", "counter_5.db") == collector.report.unreadable


def test_an_archive_of_a_third_user_is_not_gone_on_with(shared: Path) -> None:
    """An archive that another user has made is neither shown nor added to."""
    directory.prepare(shared)
    write_client_file(shared, "counter_5.db")
    Archiver(shared).archive_ended()
    os.chown(shared / archive.NAME, STRANGER, STRANGER)
    shared.chmod(0o770)
    write_client_file(shared, "counter_6.db")
    Archiver(shared).archive_ended()
    collector = Collector(shared)
    assert "jobs_total 2.0" in render(collector.collect())
    assert (archive.NAME,) == collector.report.unreadable
