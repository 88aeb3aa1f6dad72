"""
Slot files that somebody cut, filled, replaced or closed: read by the exporter, held by a worker, met by the next owner.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers
from chaos.recovery import HEALING_SECONDS, ask_all, missing, replace_workers, settled, shown
from chaos.referee import Case, Kind
from chaos.scale import FULL, scale
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import in_child

from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, schemas
from wsgi_prom.store import file_format as layout
from wsgi_prom.store.locks import FIRST_SLOT, LockFile
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HITS = schemas.counter("hits", "Hits.", ("page",))
WAIT = schemas.histogram("wait", "Wait.", ("page",), (0.1, 1.0, float("inf")))

# A label set that nobody has met before the damage.
NEW = Kind("/pieces", "/pieces", 200, b"piece 0\npiece 1\npiece 2\n")

FOREIGN = b"not to be touched"


# One file and all its lengths: in this process, since there are thousands.


@pytest.fixture
def whole(shared: Path) -> dict[str, bytes]:
    """Make two slots that nobody holds, and return the bytes of the first, which tests cut."""

    def record(page: str, amount: float) -> None:
        slot = SharedSlot.claim(shared)
        for schema in (HITS, WAIT):
            columns, first = slot.row(schema, (page,))
            for index in range(first, first + schema.width):
                columns[index] += amount

    def both() -> None:
        record("/a", 3.0)
        in_child(record, "/b", 4.0)

    in_child(both)
    return {name: (shared / f"wsgi_prom.0.{name}").read_bytes() for name in ("values", "keys")}


def hits(collector: Collector) -> dict[str, float]:
    """
    Return what a scrape shows of each page.
    """
    return {
        sample.labels["page"]: sample.value
        for metric in collector.collect().to_metrics()
        if metric.name == "hits"
        for sample in metric.samples
        if "page" in sample.labels  # a byte that was changed may have made it another name
    }


def cuts(whole: dict[str, bytes], shared: Path) -> Iterator[tuple[Path, int]]:
    """Cut each of the two files at each length, and restore it."""
    for name, data in whole.items():
        path = shared / f"wsgi_prom.0.{name}"
        # What lies behind the last figure is room for more, one length of which is like the other.
        used = len(data.rstrip(b"\0")) + 16
        few = (*range(0, 64, 3), *range(64, used, 17), *range(used, len(data), 997))
        for length in range(len(data)) if scale is FULL else few:
            path.write_bytes(data[:length])
            yield path, length
        path.write_bytes(data)


def test_a_scrape_of_a_file_cut_at_any_length_shows_all_else(whole: dict[str, bytes], shared: Path) -> None:
    """A slot with a file cut at any length is whole or left out and counted, and the other slot is shown."""
    wrong = []
    seen = set()
    for path, length in cuts(whole, shared):
        collector = Collector(shared)
        found = hits(collector), len(collector.report.unreadable)
        seen.add(found[1])
        if found not in (({"/a": 3.0, "/b": 4.0}, 0), ({"/b": 4.0}, 1)):
            wrong.append((path.name, length, found))
    assert [] == wrong
    assert {0, 1} == seen


def test_an_exporter_keeps_what_it_knew_of_a_file_cut_at_any_length(
    whole: dict[str, bytes], shared: Path
) -> None:
    """A counter does not go back if its file is cut, and is right again when the file is restored."""
    collector = Collector(shared)
    wrong = []
    unreadable = set()
    expected = hits(collector)
    for path, length in cuts(whole, shared):
        found = hits(collector)
        unreadable.add(len(collector.report.unreadable))
        if found != expected:
            wrong.append((path.name, length, found))
    assert {"/a": 3.0, "/b": 4.0} == expected == hits(collector)
    assert () == collector.report.unreadable
    assert [] == wrong
    assert {0, 1} == unreadable


def test_the_next_owner_of_a_file_cut_at_any_length_starts_clean(
    whole: dict[str, bytes], shared: Path
) -> None:
    """
    The next owner continues with its predecessor's values or from 0, in the same slot, and a bad file is set aside
    once.
    """

    def own() -> list[Any]:
        wrong = []
        for path, length in cuts(whole, shared):
            # Both whole but for the cut: the owner before may have started anew.
            for name, data in whole.items():
                if name != path.suffix[1:]:
                    (shared / f"wsgi_prom.0.{name}").write_bytes(data)
            slot = SharedSlot.claim(shared)
            columns, first = slot.row(HITS, ("/a",))
            before = columns[first]
            columns[first] += 1.0
            found = hits(Collector(shared))
            aside = sorted(item.name for item in shared.iterdir() if item.suffix == ".bad")
            if (
                before not in (0.0, 3.0)
                or found != {"/a": before + 1.0, "/b": 4.0}
                or slot.number != 0
                or not set(aside) <= {"wsgi_prom.0.keys.bad", "wsgi_prom.0.values.bad"}
                or (before == 0.0 and not aside)
            ):
                wrong.append((path.name, length, slot.number, before, found, aside))
            slot.leave()
            for name in aside:
                (shared / name).unlink()
        return wrong

    # An empty file has nothing to be looked into.
    assert [] == [item for item in in_child(own) if item[:2] != ("wsgi_prom.0.values", 0)]


def test_random_bytes_in_a_file_break_neither_the_scrape_nor_the_next_owner(
    whole: dict[str, bytes], shared: Path
) -> None:
    """Random bytes in a file leave the other slot on the page, and the next owner counts what it records."""

    @settings(max_examples=200 if scale is FULL else 30, deadline=None, database=None)
    @given(
        name=st.sampled_from(["values", "keys"]),
        at=st.integers(0, 400),
        data=st.binary(max_size=300),
        alone=st.booleans(),
    )
    def damage(name: str, at: int, data: bytes, alone: bool) -> None:
        for each, bytes_ in whole.items():
            filled = bytes_[:at] + data + bytes_[at + len(data) :]
            (shared / f"wsgi_prom.0.{each}").write_bytes(
                bytes_ if each != name else data if alone else filled
            )
        assert 4.0 == hits(Collector(shared))["/b"]
        slot = SharedSlot.claim(shared)
        try:
            columns, first = slot.row(HITS, ("/new",))
            columns[first] = 1.0
            found = hits(Collector(shared))
            assert (1.0, 4.0) == (found["/new"], found["/b"])
        finally:
            slot.leave()

    in_child(damage)


@pytest.mark.parametrize("kind", ["values", "keys"])
def test_a_slot_that_cannot_be_made_usable_is_left_alone(shared: Path, kind: str) -> None:
    """If non-empty folders have the names of a slot's file and of its bad copy, the next slot is used."""
    directory.prepare(shared)
    for name in (f"wsgi_prom.0.{kind}", f"wsgi_prom.0.{kind}.bad"):
        (shared / name).mkdir()
        (shared / name / "content").touch()

    def own() -> int:
        slot = SharedSlot.claim(shared)
        columns, first = slot.row(HITS, ("/",))
        columns[first] = 1.0
        return slot.number

    assert (1, {"/": 1.0}) == (in_child(own), hits(Collector(shared)))
    assert (shared / f"wsgi_prom.0.{kind}" / "content").exists()


# Many files at a time, each of a worker of its own, of a real server.


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut_at(length: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, length)


def overwrite(path: Path, data: bytes) -> None:
    # In the same file, which the worker has mapped.
    with path.open("r+b") as file:
        file.write(data)


def fill(path: Path) -> None:
    overwrite(path, os.urandom(path.stat().st_size))


def zero(path: Path) -> None:
    overwrite(path, bytes(path.stat().st_size))


def age(path: Path) -> None:
    """
    Have it look like one of another version's.
    """
    data = path.read_bytes()
    if path.suffix == ".keys":
        overwrite(path, data.replace(b"keys %d " % layout.VERSION, b"keys 9 ", 1))
    else:
        overwrite(path, data[:8] + struct.pack("=Q", layout.VERSION + 1))


def remove(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "content").touch()


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero: a read never ends


def victim(path: Path) -> Path:
    found = path.with_name(f"victim.{path.name}")
    found.write_bytes(FOREIGN)
    found.chmod(0o640)
    return found


def make_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(victim(path))


def make_hard_link(path: Path) -> None:
    path.unlink()
    path.hardlink_to(victim(path))


def make_another(path: Path) -> None:
    path.unlink()
    path.write_bytes(os.urandom(5000))


# Of files that workers have mapped. Cut short, they would end their workers (SIGBUS), which their server replaces.
DAMAGES = {
    "values": [fill, zero, age],
    "keys": [empty, cut_at(10), cut_at(500), fill, zero, age],
}
# Of files that nobody has any more.
CUTS = {"values": [empty, cut_at(30), cut_at(64), cut_at(600), cut_at(4096), cut_at(8000)]}
REPLACEMENTS = [remove, make_directory, make_fifo, make_device, make_link, make_hard_link, make_another]

FAST = {"gunicorn sync": ("--preload",), "uwsgi prefork": ("--forkbomb-delay", "0", "--disable-logging")}


SWELL = Kind("/swell", "/swell", 200, b"swollen")


class Crowd:
    """
    A case whose workers are each to have a file of theirs changed, at the same moment.
    """

    def __init__(self, case: Case, workers: int) -> None:
        self.case = case
        self.workers = workers
        self.folder = servers.shared_directory(case.server)
        ask_all(case, workers)
        # Two pages of values each, but for the few that another was quicker to answer for.
        ask_all(case, workers, SWELL)

    def change(self, changes: list[tuple[str, Callable[[Path], None]]]) -> None:
        """
        Change a file of each slot, after a scrape that has seen all that was recorded.
        """
        self.case.scrapes.scrape()
        # Not that of a master: it serves nobody, and does not look after its slot.
        held = in_child(slots_of, self.folder, self.case.server.workers())
        assert self.workers == len(held)
        with self.case.fault(len(changes), cuts=False):
            for slot, (name, change) in zip(held, changes, strict=False):
                change(self.folder / f"wsgi_prom.{slot}.{name}")
        self.case.scrapes.scrape()

    def until_mended(self) -> int:
        """Send requests until a new exporter can read all files; return how many that took."""
        before = self.case.tally.count

        def step() -> tuple[str, ...]:
            ask_all(self.case, self.workers)
            return in_child(unreadable, self.folder)

        assert () == live.eventually(step, lambda found: not found, HEALING_SECONDS)
        assert 0 == shown(self.case, "wsgi_prom_unreadable_files")
        return self.case.tally.count - before

    def left_behind(self) -> list[str]:
        """
        Return what lies in the directory under a name that is none of the few that may be there.
        """
        return sorted(name for name in servers.worker_files(self.folder) if not ALLOWED.fullmatch(name))


# One file aside for each file: they do not pile up.
ALLOWED = re.compile(r"wsgi_prom\.(\d+\.(values|keys)(\.bad)?|lock|labels)|victim\..*")


def slots_of(path: Path, pids: list[int]) -> list[int]:
    """
    Return the numbers of the slots that *pids* hold.
    """
    lock_file = LockFile.of(path)
    return [n for n in directory.slot_numbers(path) if lock_file.holder(FIRST_SLOT + n) in pids]


def unreadable(path: Path) -> tuple[str, ...]:
    """
    Return what a new exporter would not be able to read.
    """
    collector = Collector(path)
    collector.collect()
    return collector.report.unreadable


@pytest.mark.parametrize("name", servers.BOTH)
def test_workers_whose_files_are_damaged_serve_on_and_are_counted(name: str) -> None:
    """
    Filled, zeroed or of another version: no worker ends, what was shown stays, and the rest goes to a new file. What a
    worker records until its next check may be lost with the file, but nothing that the file's next owner records.
    """
    changes = [(kind, damage) for kind, damages in DAMAGES.items() for damage in damages]
    for_next_owners = changes + [(kind, cut) for kind, cuts in CUTS.items() for cut in cuts]
    workers = len(for_next_owners) + 1
    with servers.start(name, *FAST[name], app="harmed:app", workers=workers) as server:
        with Case(f"damaged files, {name}", server, clients=0) as case:
            crowd = Crowd(case, workers)
            before = server.workers()
            crowd.change(changes)
            # Of keys, a scrape reads only what is new.
            assert shown(case, "wsgi_prom_unreadable_files") >= len(DAMAGES["values"])
            case.may_lose = 2 * crowd.until_mended()
            lost = missing(case)
            ask_all(case, workers, NEW)
            assert lost == missing(case)
            assert before == server.workers()
            assert [] == crowd.left_behind()
            # Once more, and this time it is the next owners who find it.
            crowd.change(for_next_owners)
            replace_workers(case)
            crowd.until_mended()
            ask_all(case, workers, NEW)
            assert lost == missing(case)
            assert [] == crowd.left_behind()
            aside = list(crowd.folder.glob("*.values.bad"))
    # Not of those whose values are cut behind the last figure, or to nothing.
    assert len(aside) >= len(for_next_owners) - 3


@pytest.mark.parametrize("name", servers.BOTH)
def test_workers_whose_files_are_replaced_lose_nothing(name: str) -> None:
    """
    Removed files, and a directory, FIFO, device, link or file in their place, cause no loss, and are not followed.
    """
    changes = [(kind, change) for kind in ("values", "keys") for change in REPLACEMENTS]
    workers = len(changes) + 1
    with servers.start(name, *FAST[name], app="harmed:app", workers=workers) as server:
        with Case(f"replaced files, {name}", server, clients=0) as case:
            crowd = Crowd(case, workers)
            before = server.workers()
            crowd.change(changes)
            # A file that is gone is not unreadable.
            assert shown(case, "wsgi_prom_unreadable_files") >= len(REPLACEMENTS) - 1
            crowd.until_mended()
            assert 0 == settled(case, workers)
            ask_all(case, workers, NEW)
            assert 0 == missing(case)
            assert before == server.workers()
            # Somebody has looked into what was kept aside. (A folder with something in it takes no other's place.)
            for path in crowd.folder.glob("*.bad"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            crowd.change(changes)
            replace_workers(case)
            crowd.until_mended()
            ask_all(case, workers, NEW)
            assert 0 == missing(case)
            assert [] == crowd.left_behind()
            victims = {
                (path.read_bytes(), path.stat().st_mode & 0o777) for path in crowd.folder.glob("victim.*")
            }
    # The server has left it, for what is not its own in it.
    shutil.rmtree(crowd.folder)
    assert {(FOREIGN, 0o640)} == victims


USER = {
    "gunicorn sync": ("--user", "www-data", "--group", "www-data"),
    "uwsgi prefork": ("--uid", "www-data", "--gid", "www-data"),
}


@pytest.mark.parametrize("name", servers.BOTH if scale is FULL else servers.BOTH[1:])
def test_files_that_may_not_be_read_are_counted_and_come_back(name: str) -> None:
    """
    Files of mode 000 for a user other than root: the page keeps the last values, and workers and next owners count on.
    """
    server = servers.start(name, *FAST[name], *USER[name], app="harmed:app", workers=3)
    server.command[:] = live.for_any_user(server.command)
    with server:
        with Case(f"files of mode 000, {name}", server, clients=0) as case:
            crowd = Crowd(case, 3)
            for replaced in (False, True):
                crowd.change([("values", close), ("keys", close), ("values", close)])
                seen = shown(case, "wsgi_prom_unreadable_files")
                if replaced:
                    replace_workers(case)
                ask_all(case, 3, NEW)
                reopen(crowd.folder)
                found = seen in {2, 3}, settled(case, 3), shown(case, "wsgi_prom_unreadable_files")
                assert (replaced, (True, 0, 0)) == (replaced, found)


def close(path: Path) -> None:
    path.chmod(0)


def reopen(folder: Path) -> None:
    for name in servers.files(folder):
        (folder / name).chmod(0o600)
