"""The file of the CPU time of a server's processes, which one exporter writes and the next one reads."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from users import needs_root

from wsgi_prom.errors import FormatError
from wsgi_prom.server.totals import Totals
from wsgi_prom.store import claims, directory, exporter_files, process_totals
from wsgi_prom.store.process_totals import Counted

if TYPE_CHECKING:
    from pathlib import Path

COUNTED = Counted(
    {("3", "worker"): (44, 0), ("4", "Nightly-import_2"): (305, 0), ("", "master"): (7, 12)},
    {(71, 900): (22, 0)},
)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    directory.prepare(path)
    return path


def test_what_is_written_is_read(shared: Path) -> None:
    """And the file is its user's alone, and the only one."""
    process_totals.write(shared, Counted({}, {}))
    process_totals.write(shared, COUNTED)
    assert COUNTED == process_totals.read(shared)
    assert (shared / exporter_files.PROCESSES).stat().st_mode & 0o777 == 0o600
    assert [] == list(shared.glob("*.new"))


WRONG = [
    '["3", "worker", -1, 0]', '["3", "worker", 1.5, 0]', '["3", "worker", true, 0]', '["3", "worker", 1e400, 0]',
    '["3", "worker", 1]', '["03", "worker", 1, 0]', '["3", "a\\"b", 1, 0]', '[3, "worker", 1, 0]', '[["3"], "worker", 1, 0]', "7",
]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"7", b"[" * 9999, b"\xff", b" " * (1 << 21), b"[0, [], []]", b"[1, [], []]"]
    + [f"[{claims.namespace()}, [{row}], []]".encode() for row in WRONG],
    ids=lambda data: data[:60].decode(errors="replace"),
)
def test_what_is_no_file_of_totals_is_refused_and_replaced(shared: Path, data: bytes) -> None:
    """The next exporter begins anew, and its totals are there for the one after it."""
    (shared / exporter_files.PROCESSES).write_bytes(data)
    with pytest.raises(FormatError):
        process_totals.read(shared)
    totals = Totals(shared)
    totals.add(("3", "worker"), (71, 900), (22, 0))
    assert {("3", "worker"): (22, 0)} == totals.save() == process_totals.read(shared).totals


def test_totals_that_cannot_be_written_stay_in_memory(shared: Path) -> None:
    """A directory is in the place of the new file: the former file stays. When it is gone, the totals are written."""
    process_totals.write(shared, COUNTED)
    aside = shared / f"{exporter_files.PROCESSES}.new"
    aside.mkdir()
    totals = Totals(shared)
    totals.add(("3", "worker"), (71, 900), (25, 0))
    assert (47, 0) == totals.save()["3", "worker"]
    assert COUNTED == process_totals.read(shared)
    aside.rmdir()
    totals.save()
    assert (47, 0) == process_totals.read(shared).totals["3", "worker"]


@needs_root
def test_a_file_of_a_third_user_and_a_link_are_refused(shared: Path) -> None:
    """Nobody else tells what this server used."""
    process_totals.write(shared, COUNTED)
    file = shared / exporter_files.PROCESSES
    os.chown(file, 54321, 54321)
    with pytest.raises(OSError):
        process_totals.read(shared)
    os.chown(file, os.geteuid(), os.getegid())
    file.rename(shared / "aside")
    file.symlink_to(shared / "aside")
    with pytest.raises(OSError):
        process_totals.read(shared)


def test_a_start_clears_the_totals_of_an_earlier_server(shared: Path) -> None:
    """Nobody lives there any more."""
    process_totals.write(shared, COUNTED)
    (shared / f"{exporter_files.PROCESSES}.new").write_text(json.dumps([]))
    directory.clear(shared, directory.prepare(shared))
    assert [] == list(shared.glob(f"{exporter_files.PROCESSES}*"))


def test_the_file_goes_with_its_directory_and_none_is_made_in_one_that_goes(tmp_path: Path) -> None:
    """Where a directory is being removed, a late write leaves nothing behind."""
    path = tmp_path / f"wsgi_prom-{os.geteuid()}-{'0' * 16}"
    lock_file = directory.prepare(path)
    process_totals.write(path, COUNTED)
    assert directory.discard(path, lock_file)
    assert not path.exists()
    lock_file = directory.prepare(path)
    lock_file.mark_discarded()
    process_totals.write(path, COUNTED)
    assert ["wsgi_prom.lock"] == os.listdir(path)
