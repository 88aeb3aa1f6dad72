"""Slots: one owner each, whoever dies and however, and files that hold what their owners recorded."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

import processes
import pytest
from interruptions import at_each_instruction
from users import needs_root

from wsgi_prom.errors import FormatError
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import file_format as layout
from wsgi_prom.store import mapping, schemas, slot_files, slots
from wsgi_prom.store.directory import prepare
from wsgi_prom.store.memory_slot import MemorySlot
from wsgi_prom.store.slot_files import State
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HITS = schemas.counter("hits", "Hits.", ("page",))
LIVE = schemas.gauge("busy", "Busy.", (), "livesum")
ALL = schemas.gauge("size", "Size.", (), "all")
LATEST = schemas.gauge("seen", "Seen.", (), "livemostrecent")
SUM = schemas.gauge("held", "Held.", (), "sum")
WAIT = schemas.histogram("wait", "Wait.", ("page",), (0.1, 1.0, float("inf")))


class Owner:
    """A process that claims a slot of a directory and stays."""

    def __init__(self, path: Path, fork: Callable[[], int] = os.fork) -> None:
        self._path = path
        self._slot: SharedSlot | None = None
        self.child = processes.Child(self._obey, fork)

    def claim(self) -> int:
        return self.child.call("claim")

    def add(self, schema: schemas.Schema, labels: tuple[str, ...], *amounts: float) -> list[float]:
        return self.child.call("add", schema, labels, amounts)

    def _obey(self, order: str, *arguments: Any) -> Any:
        if order == "claim":
            self._slot = SharedSlot.claim(self._path)
            return self._slot.number
        if order == "fork":
            return self._fork()
        assert self._slot is not None
        schema, labels, amounts = arguments
        columns, first = self._slot.row(schema, labels)
        for offset, amount in enumerate(amounts):
            columns[first + offset] += amount
        return [columns[first + offset] for offset in range(schema.width)]

    @staticmethod
    def _fork() -> int:
        pid = os.fork()
        while pid == 0:
            os.read(os.open("/dev/zero", os.O_RDONLY), 1)  # for as long as its group lives
            os.sched_yield()
        return pid


@pytest.fixture
def owner(shared: Path) -> Iterator[Callable[..., Owner]]:
    """
    Start processes that claim slots of *shared*; all end with the test.
    """
    started: list[Owner] = []

    def start(**options: Any) -> Owner:
        started.append(Owner(shared, **options))
        return started[-1]

    yield start
    for each in started:
        each.child.__exit__()


def claimed(owner: Callable[..., Owner]) -> Owner:
    found = owner()
    found.claim()
    return found


def samples(path: Path) -> dict[str, float]:
    """Return what a scrape shows, by name and labels as text."""
    metrics = Collector(path).collect().to_metrics()
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def test_claims_the_lowest_free_slot(owner: Callable[..., Owner]) -> None:
    """
    Slots are numbered from 0, and the lowest that nobody holds goes to whoever comes next.
    """
    owners = [owner() for _ in range(4)]
    assert [0, 1, 2, 3] == [each.claim() for each in owners]
    owners[2].child.kill()
    owners[1].child.stop()
    assert [1, 2, 4] == [owner().claim() for _ in range(3)]


def test_a_successor_goes_on_with_counters(owner: Callable[..., Owner], shared: Path) -> None:
    """
    What a killed process counted stays, and the next owner of its slot adds to it.
    """
    first = claimed(owner)
    first.add(HITS, ("/",), 3.0)
    first.add(WAIT, ("/",), 0.5, 1.0, 0.0, 0.0)
    first.child.kill()
    second = claimed(owner)
    assert [3.0 + 4.0] == second.add(HITS, ("/",), 4.0)
    assert [0.75, 1.0, 1.0, 0.0] == second.add(WAIT, ("/",), 0.25, 0.0, 1.0)
    found = samples(shared)
    assert 7.0 == found["hits_total page=/"]
    assert (2.0, 0.75) == (found["wait_count page=/"], found["wait_sum page=/"])


def test_a_successor_starts_gauges_of_living_processes_anew(
    owner: Callable[..., Owner], shared: Path
) -> None:
    """
    Live gauges and those of mode `all` speak of one process; `sum` goes on.
    """
    first = claimed(owner)
    first.add(LIVE, (), 2.0)
    first.add(LATEST, (), 5.0, 1000.0)
    first.add(SUM, (), 4.0)
    assert 2.0 == samples(shared)["busy"]
    first.child.kill()
    dead = samples(shared)
    assert ("busy" in dead, "seen" in dead, dead["held"]) == (False, False, 4.0)
    second = claimed(owner)
    assert [[0.0], [0.0, 0.0], [4.0]] == [second.add(schema, ()) for schema in (LIVE, LATEST, SUM)]


def test_all_speaks_of_the_last_owner(owner: Callable[..., Owner], shared: Path) -> None:
    """
    A gauge of mode `all` is shown for a dead process until another takes its slot over.
    """
    first = claimed(owner)
    first.add(ALL, (), *(6.0, 1.0)[: ALL.width])
    first.child.kill()
    assert 6.0 == samples(shared)["size pid=0"]
    assert 0.0 == claimed(owner).add(ALL, ())[0]
    assert 0.0 == samples(shared).get("size pid=0", 0.0)


def test_a_child_that_lives_on_does_not_hold_its_parents_slot(owner: Callable[..., Owner]) -> None:
    """
    A slot is free when its owner dies, also if a process that it forked has inherited all its files.
    """
    first = claimed(owner)
    orphan = first.child.call("fork")
    first.child.kill()
    os.kill(orphan, 0)
    assert 0 == owner().claim()


@pytest.mark.parametrize("fork", [os.fork, processes.fork_unseen])
def test_taking_over_again_and_again_makes_no_more_files(fork: Callable[[], int], shared: Path) -> None:
    """
    Forty workers that follow one another leave as many files as one, and every one's counts.
    """
    for _ in range(40):
        owner = Owner(shared, fork)
        with owner.child:
            assert 0 == owner.claim()
            owner.add(HITS, ("/",), 1.0)
            owner.child.kill()
    assert ["wsgi_prom.0.keys", "wsgi_prom.0.values", "wsgi_prom.lock"] == sorted(os.listdir(shared))
    assert 40.0 == samples(shared)["hits_total page=/"]


def test_processes_that_claim_at_the_same_time_get_different_slots(owner: Callable[..., Owner]) -> None:
    """
    No two living processes ever have the same slot.
    """
    for _ in range(5):
        racers = [owner() for _ in range(8)]
        for racer in racers:
            racer.child.send("claim")
        assert list(range(8)) == sorted(racer.child.receive() for racer in racers)
        for racer in racers:
            racer.child.kill()


def test_grows_beyond_a_page(owner: Callable[..., Owner], shared: Path) -> None:
    """
    Thousands of series fit, values that were handed out before the file grew go on being right, and a successor finds all.
    """
    first = claimed(owner)
    kept = first.add(HITS, ("0",), 1.0)
    assert [1.0] == kept
    for number in range(3000):
        first.add(HITS, (str(number),), 1.0)
    assert [2.0] == first.add(HITS, ("0",))
    first.child.kill()
    second = claimed(owner)
    assert [1.0] == second.add(HITS, ("2999",))
    found = samples(shared)
    assert (3000, 3001.0) == (len(found), sum(found.values()))


def test_a_view_from_before_the_file_grew_writes_to_the_file(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """
    Columns and index of a row are valid for as long as the process lives.
    """

    def grow() -> float:
        slot = SharedSlot.claim(shared)
        columns, first = slot.row(HITS, ("kept",))
        for number in range(2000):
            slot.row(HITS, (str(number),))
        columns[first] += 5.0
        again, index = slot.row(HITS, ("kept",))
        return again[index]

    assert 5.0 == in_child(grow)
    assert 5.0 == samples(shared)["hits_total page=kept"]


def test_files_are_the_users_own(in_child: Callable[..., Any], shared: Path) -> None:
    """
    Without any umask the files have mode 0600 and the directory 0700.
    """

    def claim() -> None:
        os.umask(0)
        SharedSlot.claim(shared).row(HITS, ("/",))

    in_child(claim)
    assert 0o700 == stat.S_IMODE(shared.stat().st_mode)
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in shared.iterdir()}


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def garbage_values(path: Path) -> None:
    write(path / "wsgi_prom.0.values", b"garbage" * 1000)


def zero_values(path: Path) -> None:
    write(path / "wsgi_prom.0.values", bytes(4096))


def short_values(path: Path) -> None:
    file = path / "wsgi_prom.0.values"
    write(file, file.read_bytes()[:70])


def garbage_keys(path: Path) -> None:
    write(path / "wsgi_prom.0.keys", b"garbage\n" * 1000)


def short_keys(path: Path) -> None:
    file = path / "wsgi_prom.0.keys"
    write(file, file.read_bytes()[:-3])


def no_keys(path: Path) -> None:
    (path / "wsgi_prom.0.keys").unlink()


def other_keys(path: Path) -> None:
    write(
        path / "wsgi_prom.0.keys",
        layout.keys_header(7) + layout.schema_line(HITS) + layout.row_line(0, ("/",)),
    )


def replaced(path: Path, name: str, make: Callable[[Path], None]) -> None:
    file = path / f"wsgi_prom.0.{name}"
    file.unlink()
    make(file)


def make_symlink(file: Path) -> None:
    target = file.with_name("victim")
    target.write_bytes(b"not to be touched")
    file.symlink_to(target)


def make_hard_link(file: Path) -> None:
    target = file.with_name("victim")
    target.write_bytes(b"not to be touched")
    file.hardlink_to(target)


def make_foreign(file: Path) -> None:
    file.touch()
    os.chown(file, 12345, 12345)


BROKEN = [garbage_values, zero_values, short_values, garbage_keys, short_keys, no_keys, other_keys]
REPLACED = [make_symlink, make_hard_link, os.mkfifo, os.mkdir, make_foreign]


@pytest.mark.parametrize("damage", BROKEN)
def test_a_file_that_cannot_be_read_is_kept_aside(
    owner: Callable[..., Owner], shared: Path, damage: Callable[[Path], None]
) -> None:
    """
    Whatever is wrong with a slot's files, its next owner starts it anew and loses nothing that might be looked into.
    """
    first = claimed(owner)
    first.add(HITS, ("/",), 3.0)
    first.child.kill()
    damage(shared)
    broken = (shared / "wsgi_prom.0.values").read_bytes()
    second = claimed(owner)
    assert [1.0] == second.add(HITS, ("/",), 1.0)
    assert broken == (shared / "wsgi_prom.0.values.bad").read_bytes()
    assert {"hits_total page=/": 1.0} == samples(shared)


@pytest.mark.parametrize("name", ["values", "keys"])
@pytest.mark.parametrize("make", REPLACED)
def test_what_is_not_a_plain_file_is_not_written_to(
    owner: Callable[..., Owner], shared: Path, name: str, make: Callable[[Path], None]
) -> None:
    """
    A link, a FIFO, a directory or a file of another owner in the place of a slot's file is put aside, and never followed.
    """
    first = claimed(owner)
    first.add(HITS, ("/",), 3.0)
    first.child.kill()
    replaced(shared, name, make)
    second = claimed(owner)
    assert [1.0] == second.add(HITS, ("/",), 1.0)
    assert {"hits_total page=/": 1.0} == samples(shared)
    if (shared / "victim").exists():
        assert b"not to be touched" == (shared / "victim").read_bytes()


@needs_root
@pytest.mark.parametrize("name", ["values", "keys"])
def test_root_gives_no_file_away_that_others_linked(
    in_child: Callable[..., Any], shared: Path, name: str
) -> None:
    """
    Root makes slot files for workers of another user, and does not give them a file of its own that they linked there.
    """
    nobody = (65534, 65534)
    prepare(shared, owner=nobody)
    victim = shared / "victim"
    victim.touch()
    (shared / f"wsgi_prom.0.{name}").hardlink_to(victim)

    def claim() -> set[int]:
        SharedSlot.claim(shared, nobody)
        return {path.stat().st_uid for path in shared.glob("wsgi_prom.0.*s")}

    assert {nobody[0]} == in_child(claim)
    assert 0 == victim.stat().st_uid


@pytest.mark.parametrize("name", ["values", "keys"])
@pytest.mark.parametrize("make", REPLACED)
def test_a_scrape_leaves_out_what_is_not_a_plain_file(
    owner: Callable[..., Owner], shared: Path, name: str, make: Callable[[Path], None]
) -> None:
    """
    A scrape neither waits for a FIFO nor follows a link; it shows the other slots.
    """
    for page in ("/0", "/1"):
        claimed(owner).add(HITS, (page,), 1.0)
    replaced(shared, name, make)
    found = samples(shared)
    assert 1.0 == found["hits_total page=/1"]
    assert "hits_total page=/0" not in found


def test_a_second_bad_file_replaces_the_first(owner: Callable[..., Owner], shared: Path) -> None:
    """
    Damage again and again leaves one file aside for each file, not ever more.
    """
    for _ in range(3):
        first = claimed(owner)
        first.add(HITS, ("/",), 3.0)
        first.child.kill()
        garbage_values(shared)
    claimed(owner)
    names = sorted(path.name for path in shared.iterdir() if path.suffix == ".bad")
    assert ["wsgi_prom.0.keys.bad", "wsgi_prom.0.values.bad"] == names


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_bad_file_can_be_put_aside_where_another_lies(
    owner: Callable[..., Owner], shared: Path, make: Callable[[Path], None]
) -> None:
    """
    What lies under the name for bad files does not keep a slot from being claimed.
    """
    first = claimed(owner)
    first.child.kill()
    make(shared / "wsgi_prom.0.values.bad")
    garbage_values(shared)
    assert 0 == owner().claim()


def test_a_torn_row_is_written_over(owner: Callable[..., Owner], shared: Path) -> None:
    """
    Keys that were written and not committed, by a process that was killed in between, are as if they were not there.
    """
    first = claimed(owner)
    first.add(HITS, ("/",), 3.0)
    first.child.kill()
    with (shared / "wsgi_prom.0.keys").open("ab") as keys:
        keys.write(layout.row_line(0, ("/torn",))[:-4])
    assert {"hits_total page=/": 3.0} == samples(shared)
    second = claimed(owner)
    assert [1.0] == second.add(HITS, ("/new",), 1.0)
    assert {"hits_total page=/": 3.0, "hits_total page=/new": 1.0} == samples(shared)


def test_new_series_cost_no_file_of_their_own(owner: Callable[..., Owner], shared: Path) -> None:
    """
    Any number of metric types and labels of a process are two files.
    """
    first = claimed(owner)
    for schema in (HITS, WAIT):
        for page in "abc":
            first.add(schema, (page,), 1.0)
    for schema in (LIVE, ALL, LATEST, SUM):
        first.add(schema, ())
    assert 2 == len(list(shared.glob("wsgi_prom.0.*")))


def test_a_full_disk_is_an_error_and_not_a_signal(in_child: Callable[..., Any], shared: Path) -> None:
    """
    Where there is no space for a value file, the claim fails and frees the slot, and recording does not kill the process.
    """

    def claim() -> tuple[str, int]:
        import resource

        lock_file = prepare(shared)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with pytest.raises(OSError, match="File too large"):
            SharedSlot.claim(shared)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert not any(lock_file.mine(byte) for byte in range(100))
        return "claimed", SharedSlot.claim(shared).number

    assert ("claimed", 0) == in_child(claim)


def test_no_space_for_a_new_series_leaves_the_others(in_child: Callable[..., Any], shared: Path) -> None:
    """
    Series that the file cannot grow for are kept in memory, and it is told why; the others are recorded and shown.
    """

    def fill() -> float:
        import resource
        import signal

        slot = SharedSlot.claim(shared)
        columns, first = slot.row(HITS, ("kept",))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for number in range(3000):
            slot.row(HITS, (f"page {number}",))[0][0]
        columns[first] += 2.0
        shown = samples(shared)
        assert slot.error is not None
        assert slot.error.errno in {errno.EFBIG, errno.ENOSPC}
        assert 200 < len(shown) < 3000
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        slot.retry()
        slot.row(HITS, ("later",))
        assert 0.0 == samples(shared)["hits_total page=later"]
        return shown["hits_total page=kept"]

    assert 2.0 == in_child(fill)
    assert 2.0 == samples(shared)["hits_total page=kept"]


def test_a_process_that_dies_while_its_file_is_made_leaves_a_usable_slot(
    owner: Callable[..., Owner], shared: Path
) -> None:
    """
    Empty files, as SIGKILL at the wrong moment leaves them, are taken for new ones.
    """
    prepare(shared)
    (shared / "wsgi_prom.0.keys").touch()
    (shared / "wsgi_prom.0.values").touch()
    assert {} == samples(shared)
    first = claimed(owner)
    assert [1.0] == first.add(HITS, ("/",), 1.0)
    assert not list(shared.glob("*.bad"))


def test_a_process_that_is_killed_while_it_maps_its_file_leaves_it_as_long_as_it_was(
    in_child: Callable[..., Any], shared: Path, tmp_path: Path
) -> None:
    """At whichever instruction its owner is killed, the files of its successor are no longer than others."""

    def use(path: Path) -> dict[str, int]:
        slot = SharedSlot.claim(path)
        slot.row(HITS, ("/",))
        slot.leave()
        return {item.name: item.stat().st_size for item in path.glob("wsgi_prom.0.*")}

    def begin(number: int) -> None:
        use(shutil.copytree(shared, tmp_path / str(number)))

    def keep(number: int) -> None:
        shutil.copytree(tmp_path / str(number), tmp_path / f"{number} killed")

    whole = in_child(use, shared)
    count = in_child(lambda: at_each_instruction(begin, keep, mapping))
    assert count > 20
    assert [whole] * count == [in_child(use, tmp_path / f"{number} killed") for number in range(count)]


def test_memory_slots_keep_what_they_are_given() -> None:
    """
    A row of a process's own memory is made once, and shows what was recorded.
    """
    slot = MemorySlot()
    columns, first = slot.row(WAIT, ("/",))
    columns[first + 1] += 2.0
    assert slot.row(WAIT, ("/",))[0] is columns
    ((schema, labels, (_, *values)),) = slot.rows()
    assert (WAIT, ("/",), [0.0, 2.0, 0.0, 0.0]) == (schema, labels, values)


def test_values_without_keys_are_refused(shared: Path) -> None:
    """
    A value file that is all zero was being made when its owner died.
    """
    with pytest.raises(FormatError):
        layout.unpack_header(bytes(4096))


WIDE = schemas.histogram("wide", "Wider than a page.", ("page",), (*map(float, range(1000)), float("inf")))


@pytest.mark.parametrize("schema", [HITS, WIDE], ids=["in the same page", "in a page of its own"])
def test_a_check_finds_no_damage_while_a_signal_handler_adds_a_row(
    in_child: Callable[..., Any], shared: Path, schema: schemas.Schema
) -> None:
    """A handler that adds a row at any instruction of a check is no damage, even if the files grow for it."""

    def run() -> tuple[int, set[State]]:
        slot, found = SharedSlot.claim(shared), set()
        interrupted = at_each_instruction(
            lambda _: found.add(slot.check()),
            lambda number: slot.row(schema, (str(number),)),
            slots,
            slot_files,
        )
        return interrupted, found

    interrupted, found = in_child(run)
    assert interrupted > 100
    assert {State.GOOD} == found


@pytest.mark.parametrize("schema", [HITS, WIDE], ids=["in the same page", "in a page of its own"])
def test_a_signal_handler_that_checks_a_slot_while_a_row_is_added_finds_no_damage(
    in_child: Callable[..., Any], shared: Path, schema: schemas.Schema
) -> None:
    """A check at any instruction of a row's making, as between its keys and their commit, finds the files in order."""

    def run() -> tuple[int, set[State]]:
        slot, found = SharedSlot.claim(shared), set()
        interrupted = at_each_instruction(
            lambda number: slot.row(schema, (str(number),)),
            lambda _: found.add(slot.check()),
            slots,
            slot_files,
        )
        return interrupted, found | {slot.check()}

    interrupted, found = in_child(run)
    assert interrupted > 100
    assert {State.GOOD} == found
    assert interrupted + 1 == sum(name.startswith(("hits_total", "wide_count")) for name in samples(shared))
