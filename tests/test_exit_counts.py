"""The file in which an arbiter of gunicorn counts the workers that have ended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from users import needs_root

from wsgi_prom.errors import FormatError
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, directory_files, exit_counts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    directory.prepare(path)
    return path


def write(path: Path, number: int, counts: Mapping[str, int]) -> None:
    with directory_files.opened(path) as folder:
        exit_counts.write(folder, number, counts)


def read(path: Path, number: int) -> dict[str, int]:
    with directory_files.opened(path) as folder:
        return exit_counts.read(folder, number)


def collected(collector: Collector) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for metric in collector.collect().to_metrics()
        if metric.name == "wsgi_worker_exits"
        for sample in metric.samples
    }


def test_what_is_written_is_read(shared: Path) -> None:
    """And the file is its user's alone."""
    write(shared, 1, {"reload": 2})
    write(shared, 1, {"reload": 3, "timeout": 0})
    assert {"reload": 3, "timeout": 0} == read(shared, 1)
    assert (shared / exit_counts.name(1)).stat().st_mode & 0o777 == 0o600
    assert [1] == exit_counts.numbers(os.listdir(shared))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"a": -1}', b'{"a": 1.5}', b'{"a": true}', b'{"a": 1e400}', b'{"a": "1"}', b"[" * 9999, b"\xff"],
    ids=repr,
)  # fmt: skip
def test_what_is_no_file_of_counts_is_refused(shared: Path, data: bytes) -> None:
    """Whatever it is, and it costs no other metric."""
    (shared / exit_counts.name(2)).write_bytes(data)
    write(shared, 1, {"reload": 2})
    with pytest.raises(FormatError):
        read(shared, 2)
    collector = Collector(shared)
    assert {"reload": 2} == collected(collector)
    assert (exit_counts.name(2),) == collector.report.unreadable


def test_the_counts_of_all_arbiters_add_up_and_stay_when_a_file_is_gone(shared: Path) -> None:
    """One that comes back goes on where it was."""
    write(shared, 1, {"reload": 2})
    write(shared, 2, {"reload": 3, "SIGKILL": 1})
    collector = Collector(shared)
    assert {"reload": 5, "SIGKILL": 1} == collected(collector)
    (shared / exit_counts.name(1)).unlink()
    assert {"reload": 5, "SIGKILL": 1} == collected(collector)
    write(shared, 1, {"reload": 4})
    assert {"reload": 7, "SIGKILL": 1} == collected(collector)


def test_a_write_that_fails_leaves_the_former_file(shared: Path) -> None:
    """And no new one: a directory is in its place."""
    write(shared, 1, {"reload": 2})
    (shared / f"{exit_counts.name(1)}.new").mkdir()
    with pytest.raises(OSError):
        write(shared, 1, {"reload": 3})
    assert {"reload": 2} == read(shared, 1)


@needs_root
def test_a_file_of_a_third_user_does_not_count(shared: Path) -> None:
    """Nor is one followed that is a link."""
    write(shared, 1, {"reload": 2})
    os.chown(shared / exit_counts.name(1), 54321, 54321)
    (shared / exit_counts.name(2)).symlink_to(shared / exit_counts.name(1))
    assert {} == collected(Collector(shared))


def test_a_start_clears_the_counts_of_an_earlier_server(shared: Path) -> None:
    """Nobody lives there any more."""
    write(shared, 1, {"reload": 2})
    directory.clear(shared, directory.prepare(shared))
    assert [] == exit_counts.numbers(os.listdir(shared))


def test_a_write_spares_a_file_that_has_another_name_too(shared: Path) -> None:
    """Where the new file would be there is another's: it is not emptied."""
    other = shared.parent / "other"
    other.write_text("another's")
    (shared / f"{exit_counts.name(1)}.new").hardlink_to(other)
    with pytest.raises(OSError):
        write(shared, 1, {"reload": 3})
    assert other.read_text() == "another's"


def test_a_write_takes_nothing_over_from_one_that_was_cut_short(shared: Path) -> None:
    """What an arbiter has left behind that was killed in the middle may be longer."""
    (shared / f"{exit_counts.name(1)}.new").write_text("[" * 999)
    write(shared, 1, {"reload": 3})
    assert {"reload": 3} == read(shared, 1)
