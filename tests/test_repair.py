"""Slot files that somebody removes, replaces or damages while a process records into them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes
import pytest

from runner.waits import eventually
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import file_format as layout
from wsgi_prom.store import schemas
from wsgi_prom.store.slot_files import State
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HITS = schemas.counter("hits", "Hits.", ("page",))


class Recorded:
    """A process with a metric of each kind, which checks its slot when it is told to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = False

    def __call__(self, action: str, *arguments: Any) -> Any:
        from prometheus_client import Counter, Gauge, Summary

        from wsgi_prom.client import patch
        from wsgi_prom.store.current_slot import current_slot

        if not self._made:
            self._made = True
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._path)
            patch.install()
            self.hits = Counter("hits", "Hits.", ["page"], registry=None)
            self.level = Gauge("level", "Level.", registry=None, multiprocess_mode="livesum")
            self.drift = Summary("drift", "Drift.", registry=None)
            self.least = Gauge("least", "Least.", registry=None, multiprocess_mode="min")
        if action == "count":
            page, times = arguments
            for _ in range(times):
                self.hits.labels(page).inc()
        elif action == "set":
            self.level.set(arguments[0])
            self.least.set(arguments[0])
        elif action == "count each":
            for number in range(*arguments):
                self.hits.labels(f"/{number}").inc()
        elif action == "observe":
            self.drift.observe(*arguments)
        elif action == "look":
            return current_slot.check()
        elif action == "fork":
            child = os.fork()
            if child == 0:
                self.hits.labels("/").inc()
                os._exit(0)
            return os.waitpid(child, 0)[1]
        return None


@pytest.fixture
def recorded(shared: Path) -> Iterator[Callable[[], processes.Child]]:
    """`recorded()`: start a process that records into the directory."""
    children = []

    def start() -> processes.Child:
        children.append(processes.Child(Recorded(shared)).__enter__())
        return children[-1]

    yield start
    for child in children:
        child.__exit__()


def counted(collector: Collector) -> dict[str, float]:
    """Return the hits by page."""
    found = {}
    for metric in collector.collect().to_metrics():
        for sample in metric.samples:
            if sample.name == "hits_total":
                found[sample.labels["page"]] = sample.value
    return found


def files(shared: Path) -> list[str]:
    return sorted(path.name for path in shared.iterdir())


@pytest.mark.parametrize("length", [0, 1, 40, 64, 100, 4095])
def test_a_value_file_that_is_cut_short_is_left_for_a_fresh_slot(
    recorded: Callable[[], processes.Child], shared: Path, length: int
) -> None:
    """
    Counts up to the last scrape and after the process's next check are on the page when a value file is truncated.
    """
    child, collector = recorded(), Collector(shared)
    child.call("count", "/", 3)
    assert {"/": 3.0} == counted(collector)
    os.truncate(shared / "wsgi_prom.0.values", length)
    child.call("look")
    child.call("count", "/", 4)
    assert {"/": 7.0} == counted(collector)
    child.call("count", "/later", 1)
    assert {"/": 7.0, "/later": 1.0} == counted(collector)


def test_a_directory_that_comes_back_takes_nothing_off_the_page(
    recorded: Callable[[], processes.Child], shared: Path
) -> None:
    """A directory is moved away, its process records in another, and it is put back: each scrape has all counts."""
    child, collector, aside = recorded(), Collector(shared), shared.with_name("aside")
    child.call("count", "/", 3)
    assert {"/": 3.0} == counted(collector)
    shared.rename(aside)
    child.call("look")
    child.call("count", "/", 4)
    assert {"/": 7.0} == counted(collector)
    shutil.rmtree(shared)
    aside.rename(shared)
    assert {"/": 7.0} == counted(collector)
    child.call("look")
    child.call("count", "/", 1)
    assert {"/": 8.0} == counted(collector)


def test_a_directory_that_cannot_be_used_leaves_the_values_where_they_are(
    recorded: Callable[[], processes.Child], shared: Path
) -> None:
    """
    While a directory that everybody can write to has the path, the values stay in the directory that was moved away.
    """
    child, collector, aside = recorded(), Collector(shared), shared.with_name("aside")
    child.call("count", "/", 3)
    assert {"/": 3.0} == counted(collector)
    shared.rename(aside)
    shared.mkdir()
    shared.chmod(0o1777)
    child.call("look")
    child.call("count", "/", 4)
    shared.rmdir()
    aside.rename(shared)
    assert {"/": 7.0} == counted(Collector(shared))
    child.call("look")
    child.call("count", "/", 1)
    assert {"/": 8.0} == counted(collector)


@pytest.mark.parametrize("gone", ["values", "keys", "lock", "all", "directory"])
def test_what_is_removed_is_made_again(
    recorded: Callable[[], processes.Child], shared: Path, gone: str
) -> None:
    """Removed files or a removed directory are made again; a running and a new exporter see each count once."""
    child, other, collector = recorded(), recorded(), Collector(shared)
    child.call("count", "/", 3)
    other.call("count", "/", 10)
    child.call("set", 5)
    before = files(shared)
    assert {"/": 13.0} == counted(collector)
    child.call("count", "/", 1)
    if gone == "directory":
        shutil.rmtree(shared)
    for path in [] if gone == "directory" else list(shared.iterdir()):
        if gone == "all" or path.name.endswith(gone):
            path.unlink()
    child.call("count", "/", 1)
    assert 0 == child.call("look")
    assert 0 == other.call("look")
    child.call("count", "/", 1)
    other.call("count", "/new", 1)
    assert {"/": 16.0, "/new": 1.0} == counted(collector)
    assert {"/": 16.0, "/new": 1.0} == counted(Collector(shared))
    assert before == files(shared)
    third = recorded()
    third.call("count", "/", 1)
    assert {"/": 17.0, "/new": 1.0} == counted(Collector(shared))


@pytest.mark.parametrize("gone", ["values", "keys", "directory"])
def test_what_earlier_owners_counted_is_carried_along(
    recorded: Callable[[], processes.Child], shared: Path, gone: str
) -> None:
    """A slot whose files are removed keeps the counts of its earlier owners."""
    first = recorded()
    first.call("count", "/", 3)
    first.call("count", "/first", 1)
    first.kill()
    second = recorded()
    second.call("count", "/", 2)
    if gone == "directory":
        shutil.rmtree(shared)
    else:
        (shared / f"wsgi_prom.0.{gone}").unlink()
    assert 0 == second.call("look")
    assert {"/": 5.0, "/first": 1.0} == counted(Collector(shared))


@pytest.mark.parametrize("kind", ["values", "keys"])
def test_what_is_put_in_the_place_of_a_file_is_set_aside(
    recorded: Callable[[], processes.Child], shared: Path, kind: str, tmp_path: Path
) -> None:
    """
    A directory, FIFO, link or file in the place of a slot's file is set aside, and neither followed nor written to.
    """
    foreign = tmp_path / "foreign"
    foreign.write_text("untouched")
    child, collector = recorded(), Collector(shared)
    child.call("count", "/", 1)
    assert {"/": 1.0} == counted(collector)
    name = shared / f"wsgi_prom.0.{kind}"
    makers: list[Callable[[], object]] = [
        name.mkdir, lambda: os.mkfifo(name), lambda: name.symlink_to(foreign), lambda: name.write_text("garbage"),
    ]  # fmt: skip
    for turn, make in enumerate(makers, start=2):
        name.unlink()
        make()
        assert {"/": turn - 1.0} == counted(collector)
        assert 0 == child.call("look")
        child.call("count", "/", 1)
        assert {"/": float(turn)} == counted(collector)
        assert {"/": float(turn)} == counted(Collector(shared))
    assert "untouched" == foreign.read_text()
    assert "garbage" == name.with_name(name.name + ".bad").read_text()


@pytest.mark.parametrize("kind", ["values", "keys"])
def test_garbage_in_a_file_is_noticed(
    recorded: Callable[[], processes.Child], shared: Path, kind: str
) -> None:
    """A process whose header or keys were written over continues in good files."""
    child, collector = recorded(), Collector(shared)
    child.call("count", "/", 3)
    assert {"/": 3.0} == counted(collector)
    path = shared / f"wsgi_prom.0.{kind}"
    with path.open("r+b") as file:
        file.write(b"garbage" * 8)
    assert 0 == child.call("look")
    child.call("count", "/", 1)
    assert {"/": 4.0} == counted(collector)
    if kind == "keys":
        assert {"/": 4.0} == counted(Collector(shared))


def test_a_claim_that_failed_is_tried_again(
    recorded: Callable[[], processes.Child], shared: Path, tmp_path: Path
) -> None:
    """A process that can have no directory keeps its counts, and brings them when it can."""
    shared.write_text("in the way")
    child = recorded()
    child.call("count", "/", 3)
    assert child.call("look") > 0
    shared.unlink()
    assert 0 == child.call("look")
    child.call("count", "/", 1)
    assert {"/": 4.0} == counted(Collector(shared))


def test_a_slot_without_space_is_filled_later(in_child: Callable[..., Any], shared: Path) -> None:
    """Series that find no space are kept in memory, and moved to the file when there is some."""

    def run() -> tuple[int, int]:
        import resource

        recorded = Recorded(shared)
        recorded("count", "/first", 1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for number in range(1000):
            recorded("count", f"/{number}", 2)
        without = len(counted(Collector(shared)))
        failed = recorded("look")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        expected = {"/first": 1.0} | {f"/{number}": 2.0 for number in range(1000)}
        # On a busy machine a try takes so long that the next one is more than a second later.
        eventually(lambda: (recorded("look"), counted(Collector(shared)))[1], expected.__eq__)
        return without, failed

    without, failed = in_child(run)
    assert 10 < without < 1000
    assert failed >= 1


def test_threads_lose_nothing_while_files_are_made_again(in_child: Callable[..., Any], shared: Path) -> None:
    """The sum is exact while four threads record and the directory is removed again and again."""

    def run() -> dict[str, float]:
        from wsgi_prom.store.current_slot import current_slot

        recorded = Recorded(shared)
        recorded("count", "/", 1)
        over = threading.Event()
        done = [0] * 4

        def count(place: int) -> None:
            while not over.is_set():
                recorded("count", f"/{done[place] % 50}", 1)
                done[place] += 1

        threads = [threading.Thread(target=count, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            shutil.rmtree(shared)
            current_slot.check()
        over.set()
        for thread in threads:
            thread.join()
        current_slot.check()
        found = counted(Collector(shared))
        return {"recorded": float(sum(done) + 1), "found": sum(found.values())}

    figures = in_child(run)
    assert figures["recorded"] == figures["found"]


def test_a_child_of_a_process_whose_files_are_gone_counts_itself(
    recorded: Callable[[], processes.Child], shared: Path
) -> None:
    """A child that is forked while its parent's slot is damaged claims a slot of its own."""
    child = recorded()
    child.call("count", "/", 1)
    with (shared / "wsgi_prom.0.values").open("r+b") as file:
        file.write(bytes(8))
    assert 0 == child.call("fork")
    child.call("look")
    child.call("count", "/", 1)
    assert {"/": 2.0} == counted(Collector(shared))


def test_a_directory_that_was_discarded_is_not_made_again(
    in_child: Callable[..., Any], tmp_path: Path
) -> None:
    """
    A worker that outlives its server does not make the removed directory again, and logs nothing; nor does its child.
    """

    def run() -> bool:
        from wsgi_prom.store import directory
        from wsgi_prom.store.current_slot import current_slot

        path = tmp_path / "wsgi_prom-0-0123456789abcdef"
        recorded = Recorded(path)
        lock_file = directory.prepare(path)
        recorded("count", "/", 1)
        directory.discard(path, lock_file)
        assert not path.exists()
        assert 0 == current_slot.check()
        recorded("count", "/", 1)
        assert 0 == recorded("fork")
        return path.exists()

    assert not in_child(run)


def test_a_sum_that_sinks_does_not_make_a_slot_an_old_copy(
    recorded: Callable[[], processes.Child], shared: Path
) -> None:
    """A slot with negative observations is not taken for an older copy of itself when its files are made again."""
    child, collector = recorded(), Collector(shared)
    child.call("observe", 5)
    child.call("count", "/", 1)
    assert {"/": 1.0} == counted(collector)
    child.call("observe", -3)
    for path in shared.glob("wsgi_prom.0.*"):
        path.unlink()
    child.call("look")
    child.call("count", "/", 10)
    assert {"/": 11.0} == counted(collector)
    assert 1 == collector.report.slots_live


def test_a_file_that_is_cut_and_then_grows_is_not_whole_again(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """
    A truncated file is not grown for the next label set, which would put zeros in the place of values; the slot is
    damaged.
    """

    def run() -> tuple[State, float]:
        slot, number = SharedSlot.claim(shared), 0
        values = shared / "wsgi_prom.0.values"
        while values.stat().st_size == layout.INITIAL_SIZE:
            number += 1
            slot.row(HITS, (str(number),))
        # As before the last one, which has made it longer.
        other = SharedSlot.claim(shared)
        for each in range(1, number):
            other.row(HITS, (str(each),))
        path = shared / "wsgi_prom.1.values"
        os.truncate(path, 2000)
        other.row(HITS, ("one more",))
        return other.check(), path.stat().st_size

    assert (State.DAMAGED, 2000) == in_child(run)


def test_recording_changes_what_no_signal_does(in_child: Callable[..., Any], shared: Path) -> None:
    """Recording installs no signal handler."""

    def caught() -> list[str]:
        status = Path("/proc/self/status").read_text()
        return [line for line in status.splitlines() if line.startswith(("SigCgt", "SigIgn"))]

    def run() -> tuple[list[str], list[str]]:
        before = caught()
        Recorded(shared)("count", "/", 1)
        return before, caught()

    before, after = in_child(run)
    assert before == after
