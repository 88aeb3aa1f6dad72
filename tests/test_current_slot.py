"""
The current slot: what a process records into, before and after forks of every kind, with threads, and without a
directory.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes
import pytest
from chaos.scale import FULL, scale
from processes import child_of, wait_simply

from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import schemas
from wsgi_prom.store.current_slot import CurrentSlot
from wsgi_prom.store.environment import VARIABLE
from wsgi_prom.store.fork_guard import PidGuard, new_fork_guard
from wsgi_prom.store.memory_slot import MemorySlot
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.store.tries import Tries

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from wsgi_prom.store.memory_slot import Slot

HITS = schemas.counter("hits", "Hits.", ("page",))
FORKS = [os.fork, processes.fork_unseen]
GUARDS = [new_fork_guard, PidGuard]
TURNS = 60 if scale is FULL else 20
# Of the calls at which a handler interrupts, each so many-th.
STEP = 10 if scale is FULL else 35


class Tally:
    """A counter that records as this package's own do, and keeps its sum."""

    def __init__(self, current_slot: CurrentSlot, page: str = "/") -> None:
        self._current_slot = current_slot
        self._page = page
        self._own = 0.0
        self._columns: Any = [0.0]
        self._index = 0
        current_slot.add(self)

    def bind(self, slot: Slot, *, keep: bool) -> None:
        columns, index = slot.row(HITS, (self._page,))
        with self._current_slot.lock:
            if keep:
                self._columns[self._index] -= self._own
                columns[index] += self._own
            else:
                self._own = 0.0
            self._columns, self._index = columns, index

    def inc(self) -> None:
        if not self._current_slot.fork_guard[0]:
            self._current_slot.prepare()
        with self._current_slot.lock:
            self._own += 1.0
            self._columns[self._index] += 1.0


def hits(path: Path) -> dict[str, float]:
    """Return what a scrape shows of each page."""
    for metric in Collector(path).collect().to_metrics():
        if metric.name == "hits":
            return {sample.labels["page"]: sample.value for sample in metric.samples}
    return {}


def recorded(current_slot: CurrentSlot) -> list[tuple[Any, ...]]:
    """Return the rows in memory, without their start times."""
    return [(schema, labels, values[1:]) for schema, labels, values in current_slot.slot.rows()]


def slots(path: Path) -> int:
    return len(list(path.glob("*.values")))


def held(current_slot: CurrentSlot) -> int | None:
    return current_slot.slot.number if isinstance(current_slot.slot, SharedSlot) else None


def wait(pid: int) -> int:
    """Wait for a child, for a bounded time: one that hangs is killed."""
    done = threading.Event()

    def watch() -> None:
        if not done.wait(processes.WAIT_SECONDS):
            os.kill(pid, signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = os.waitpid(pid, 0)[1]
    done.set()
    watcher.join()
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("guard", GUARDS)
def test_nothing_is_claimed_before_the_first_record(
    in_child: Callable[..., Any], shared: Path, guard: Any
) -> None:
    """A metric that has recorded nothing makes no file; its first record does."""

    def run() -> tuple[bool, bool]:
        os.environ[VARIABLE] = str(shared)
        tally = Tally(CurrentSlot(guard()))
        before = shared.exists()
        tally.inc()
        return before, shared.exists()

    assert (False, True) == in_child(run)
    assert {"/": 1.0} == hits(shared)


@pytest.mark.parametrize("step", ["part_from_parent", "prepare"])
def test_a_handler_that_records_while_a_child_parts_from_its_parent(
    in_child: Callable[..., Any], shared: Path, step: str
) -> None:
    """
    A signal handler that records after any call by which a forked child leaves its parent's slot is counted, and not in
    the parent's slot.
    """

    def run() -> tuple[int, float, float]:
        os.environ[VARIABLE] = str(shared)
        current_slot = CurrentSlot()
        tally = Tally(current_slot)
        tally.inc()

        def child(interrupted_at: int) -> None:
            calls = 0

            def handle(_frame: FrameType, event: str, _: object) -> None:
                nonlocal calls
                if event.endswith("return"):  # where the interpreter looks for signals
                    if calls == interrupted_at:
                        tally.inc()
                    calls += 1

            sys.setprofile(handle)
            getattr(current_slot, step)()
            sys.setprofile(None)
            tally.inc()
            current_slot.check()
            os._exit(0 if calls > interrupted_at else 2)

        interrupted = at = 0
        while wait_simply(child_of(os.fork, partial(child, at))) == 0:
            interrupted += 1
            # To part takes some 30 calls; of the thousand by which a slot is claimed, some.
            at += 1 if at < 60 else STEP
        columns, index = current_slot.slot.row(HITS, ("/",))
        return interrupted, hits(shared)["/"], columns[index]

    interrupted, found, of_parent = in_child(run)
    assert 1.0 == of_parent
    assert interrupted > 10
    assert 1 + 2 * interrupted + 1 == found  # the last child was not interrupted


@pytest.mark.parametrize("guard", GUARDS)
def test_renew_claims_without_a_record(in_child: Callable[..., Any], shared: Path, guard: Any) -> None:
    """A worker that its server's hook announced holds a slot before its first request, and shows zeros."""

    def run() -> int | None:
        current_slot = CurrentSlot(guard())
        tally = Tally(current_slot)
        current_slot.attach(shared)
        current_slot.prepare()
        current_slot.prepare()
        del tally
        return held(current_slot)

    assert 0 == in_child(run)
    assert (1, {"/": 0.0}) == (slots(shared), hits(shared))


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("fork", FORKS)
def test_a_forked_child_records_in_a_slot_of_its_own(
    in_child: Callable[..., Any], shared: Path, guard: Any, fork: Any
) -> None:
    """
    Child and grandchild part from their parent's slot with their first record, whoever called fork.
    """

    def run() -> tuple[Any, ...]:
        current_slot = CurrentSlot(guard())
        current_slot.attach(shared)
        tally = Tally(current_slot)
        tally.inc()
        seen, told = os.pipe()

        def grandchild() -> None:
            tally.inc()
            os.write(told, b"%d" % held(current_slot))

        def child() -> None:
            tally.inc()
            os.write(told, b"%d" % held(current_slot))
            assert 0 == wait_simply(child_of(fork, grandchild))
            tally.inc()

        status = wait_simply(child_of(fork, child))
        tally.inc()
        return status, os.read(seen, 10), held(current_slot)

    assert (0, b"12", 0) == in_child(run)
    assert (3, {"/": 5.0}) == (slots(shared), hits(shared))


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("fork", FORKS)
def test_a_child_that_does_not_record_claims_nothing(
    in_child: Callable[..., Any], shared: Path, guard: Any, fork: Any
) -> None:
    """A child that does not record, such as a subprocess of a worker, claims no slot."""

    def run() -> int:
        current_slot = CurrentSlot(guard())
        current_slot.attach(shared)
        tally = Tally(current_slot)
        tally.inc()
        return wait_simply(child_of(fork, lambda: Tally(current_slot, "/child")))

    assert 0 == in_child(run)
    assert (1, {"/": 1.0}) == (slots(shared), hits(shared))


@pytest.mark.parametrize("guard", GUARDS)
def test_what_a_parent_counted_in_memory_stays_with_it(
    in_child: Callable[..., Any], shared: Path, guard: Any
) -> None:
    """What a parent recorded before the directory was known is its own; its children start from 0."""

    def run() -> int:
        current_slot = CurrentSlot(guard())
        current_slot.defer()
        tally = Tally(current_slot)
        tally.inc()
        status = wait_simply(child_of(os.fork, lambda: (current_slot.attach(shared), tally.inc())))
        current_slot.attach(shared)
        return status

    assert 0 == in_child(run)
    assert {"/": 2.0} == hits(shared)


@pytest.mark.parametrize("guard", GUARDS)
def test_attach_moves_what_was_recorded_exactly_once(
    in_child: Callable[..., Any], shared: Path, guard: Any
) -> None:
    """
    Two objects of one series bring each record to the slot once, and attaching again changes nothing.
    """

    def run() -> None:
        current_slot = CurrentSlot(guard())
        current_slot.defer()
        first, second = Tally(current_slot), Tally(current_slot)
        first.inc()
        second.inc()
        first.inc()
        current_slot.attach(shared)
        assert {"/": 3.0} == hits(shared)
        current_slot.attach(shared)
        second.inc()
        assert {"/": 4.0} == hits(shared)

    in_child(run)


def test_attach_before_the_first_record_claims_nothing(in_child: Callable[..., Any], shared: Path) -> None:
    """A master that is told the directory and never records has no slot."""

    def run() -> None:
        current_slot = CurrentSlot()
        tally = Tally(current_slot)
        current_slot.attach(shared)
        del tally

    in_child(run)
    assert not shared.exists()


def test_defer_keeps_to_memory_whatever_the_environment_says(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """After defer() nothing is written, even if the application records at import."""

    def run() -> None:
        os.environ[VARIABLE] = str(shared)
        current_slot = CurrentSlot()
        current_slot.defer()
        Tally(current_slot).inc()
        assert current_slot.directory is None
        assert isinstance(current_slot.slot, MemorySlot)

    in_child(run)
    assert not shared.exists()


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("fork", FORKS)
def test_without_a_directory_a_child_goes_on_with_a_copy(
    in_child: Callable[..., Any], guard: Any, fork: Any
) -> None:
    """Without a directory a child's values include its parent's, as with the client library alone."""

    def run() -> int:
        current_slot = CurrentSlot(guard())
        tally = Tally(current_slot)
        tally.inc()

        def child() -> None:
            tally.inc()
            assert [(HITS, ("/",), [2.0])] == recorded(current_slot)

        status = wait_simply(child_of(fork, child))
        assert [(HITS, ("/",), [1.0])] == recorded(current_slot)
        return status

    assert 0 == in_child(run)


def test_a_directory_that_is_set_late_is_used_by_children(in_child: Callable[..., Any], shared: Path) -> None:
    """The environment is read when a process first records, not when this package is imported."""

    def run() -> int:
        current_slot = CurrentSlot()
        tally = Tally(current_slot)
        os.environ[VARIABLE] = str(shared)
        return wait_simply(child_of(os.fork, tally.inc))

    assert 0 == in_child(run)
    assert {"/": 1.0} == hits(shared)


def test_tries_that_take_long_are_rare(in_child: Callable[..., Any], shared: Path) -> None:
    """A process that has many rows and no space for them spends at most a fiftieth of its time on trying again."""

    def run() -> list[float]:
        now, tries = [0.0], []

        class Slow:
            def bind(self, slot: Slot, **_: bool) -> None:
                if isinstance(slot, SharedSlot):
                    tries.append(now[0])
                    now[0] += 0.5
                    raise OSError(errno.EFBIG, "File too large")

        os.environ[VARIABLE] = str(shared)
        current_slot = CurrentSlot(clock=lambda: now[0])
        current_slot.add(slow := Slow())
        for second in range(60):
            now[0] = float(second)
            current_slot.prepare()
            current_slot.check()
        del slow
        return tries

    assert [0.0, 25.0, 50.0] == in_child(run)


@pytest.mark.parametrize("guard", GUARDS)
def test_threads_that_record_first_at_the_same_time_share_one_slot(
    in_child: Callable[..., Any], shared: Path, guard: Any
) -> None:
    """Threads that make the first records of a process at the same time share one slot and lose nothing."""

    def run() -> None:
        sys.setswitchinterval(1e-5)
        current_slot = CurrentSlot(guard())
        current_slot.attach(shared)
        tallies = [Tally(current_slot, str(number % 3)) for number in range(8)]
        barrier = threading.Barrier(len(tallies))

        def record(tally: Tally) -> None:
            barrier.wait(processes.WAIT_SECONDS)
            for _ in range(500):
                tally.inc()

        threads = [threading.Thread(target=record, args=(tally,)) for tally in tallies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(5):
        in_child(run)
    assert 1 == slots(shared)
    assert 5 * 8 * 500 == sum(hits(shared).values())


def test_what_is_added_while_another_thread_claims_is_in_the_slot_too(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """A series that one thread makes during another's first record is in the slot."""

    def run() -> None:
        sys.setswitchinterval(1e-6)
        current_slot = CurrentSlot()
        current_slot.attach(shared)
        barrier = threading.Barrier(4)
        kept = []

        def record(thread: int) -> None:
            barrier.wait(processes.WAIT_SECONDS)
            for number in range(25):
                tally = Tally(current_slot, f"{thread} {number}")
                kept.append(tally)
                tally.inc()

        threads = [threading.Thread(target=record, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for turn in range(1, TURNS + 1):
        in_child(run)
        assert {float(turn)} == set(hits(shared).values())
    assert 100 == len(hits(shared))


@pytest.mark.parametrize("guard", GUARDS)
def test_forks_while_threads_record(in_child: Callable[..., Any], shared: Path, guard: Any) -> None:
    """A child that is forked while threads hold locks records at once, and every increment is counted."""
    forks = 120 if scale is FULL else 40

    def run() -> tuple[float, set[int]]:
        sys.setswitchinterval(1e-5)
        current_slot = CurrentSlot(guard())
        current_slot.attach(shared)
        tally = Tally(current_slot)
        over = threading.Event()
        counted = []

        def record() -> None:
            done = 0
            while not over.is_set():
                tally.inc()
                done += 1
                if done % 1000 == 0:
                    Tally(current_slot, f"page {done}").inc()
                    done += 1
            counted.append(done)

        threads = [threading.Thread(target=record) for _ in range(2)]
        for thread in threads:
            thread.start()
        statuses = {wait(child_of(os.fork, tally.inc)) for _ in range(forks)}
        over.set()
        for thread in threads:
            thread.join()
        return float(sum(counted)), statuses

    recorded, statuses = in_child(run)
    assert {0} == statuses
    assert recorded + forks == sum(hits(shared).values())
    assert 2 == slots(shared)


def test_forks_while_a_slot_is_claimed(in_child: Callable[..., Any], shared: Path) -> None:
    """A child that is forked in the middle of its parent's claim has a slot of its own and does not hang."""

    def run() -> int:
        sys.setswitchinterval(1e-6)
        current_slot = CurrentSlot()
        current_slot.attach(shared)
        tallies = [Tally(current_slot, str(number)) for number in range(4)]
        threads = [threading.Thread(target=tally.inc) for tally in tallies]
        for thread in threads:
            thread.start()
        status = wait(child_of(os.fork, tallies[0].inc))
        for thread in threads:
            thread.join()
        return status

    assert {0} == {in_child(run) for _ in range(TURNS)}
    assert TURNS * 5 == sum(hits(shared).values())


def test_a_directory_that_cannot_be_used_is_logged_once(
    in_child: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If no directory can be used, recording does not raise, values stay in memory, and one line of log says why."""
    file = tmp_path / "file"
    file.touch()

    def run() -> list[str]:
        os.environ[VARIABLE] = str(file)
        current_slot = CurrentSlot()
        tally = Tally(current_slot)
        with caplog.at_level(logging.INFO):
            tally.inc()
            tally.inc()
        assert [(HITS, ("/",), [2.0])] == recorded(current_slot)
        return [record.getMessage() for record in caplog.records]

    (message,) = in_child(run)
    assert str(file) in message
    assert "is not a directory" in message


@pytest.mark.parametrize(("path", "told"), [(None, "the shared directory"), (Path("/run/shop"), "/run/shop")])
def test_a_full_disk_is_told_with_its_place(
    path: Path | None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is full, also where no hook has named the directory, and to make space there."""
    tries = Tries(lambda: 0.0)
    tries.fail(OSError(errno.ENOSPC, "No space left on device"), 0.0, path)
    tries.log()
    (message,) = caplog.messages
    assert f" cannot write its metrics to {told} ([Errno 28] No space left on device); " in message
    assert message.endswith("Make space there")


def test_a_removed_directory_does_not_disturb(in_child: Callable[..., Any], shared: Path) -> None:
    """A process whose directory is removed goes on recording, in old series and in new ones."""

    def run() -> int:
        import shutil

        current_slot = CurrentSlot()
        current_slot.attach(shared)
        tally = Tally(current_slot)
        tally.inc()
        shutil.rmtree(shared)
        tally.inc()
        Tally(current_slot, "/new").inc()
        return wait_simply(child_of(os.fork, tally.inc))

    assert 0 == in_child(run)
    assert {"/": 1.0, "/new": 0.0} == hits(shared) or {"/": 1.0} == hits(shared)


def test_what_is_no_longer_referenced_is_not_moved(in_child: Callable[..., Any], shared: Path) -> None:
    """The current slot keeps no object alive that records into it."""

    def run() -> None:
        current_slot = CurrentSlot()
        current_slot.attach(shared)
        Tally(current_slot, "/gone")
        kept = Tally(current_slot, "/kept")
        gc.collect()
        kept.inc()

    in_child(run)
    assert {"/kept": 1.0} == hits(shared)


@pytest.mark.parametrize("kind", GUARDS)
@pytest.mark.parametrize("fork", FORKS)
def test_the_guard_is_zero_in_a_child_alone(in_child: Callable[..., Any], kind: Any, fork: Any) -> None:
    """Both kinds of fork guard are 0 in a child until it sets them, and unchanged in the parent."""

    def run() -> list[int]:
        guard = kind()
        assert (0, 0) == (guard[0], guard[1])
        guard[0] = guard[1] = 1

        def child() -> None:
            assert (0, 0) == (guard[0], guard[1])
            guard[1] = 1
            assert (0, 1) == (guard[0], guard[1])

        assert 0 == wait_simply(child_of(fork, child))
        return [guard[0], guard[1]]

    assert [1, 1] == in_child(run)


class Advised:
    """Memory whose kernel accepts the advice *takes*, and no other, and never wipes it."""

    def __init__(self, takes: Callable[[int], bool]) -> None:
        self._takes = takes
        self._bytes = bytearray(2)

    def madvise(self, option: int) -> None:
        if not self._takes(option):
            raise OSError(22, os.strerror(22))

    def __getitem__(self, index: int) -> int:
        return self._bytes[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._bytes[index] = value


@pytest.mark.parametrize(
    "takes",
    [lambda _: False, lambda option: option < 18, lambda _: True],
    ids=["no advice", "Linux before 4.14", "qemu-user"],
)
@pytest.mark.parametrize("fork", FORKS)
def test_a_kernel_without_the_guard_falls_back_to_the_pid(
    in_child: Callable[..., Any], fork: Any, takes: Callable[[int], bool]
) -> None:
    """If the kernel refuses to wipe a page at a fork, or accepts any advice, the guard compares pids."""

    def run() -> list[int]:
        guard = new_fork_guard(Advised(takes))
        guard[0] = guard[1] = 1

        def child() -> None:
            assert (0, 0) == (guard[0], guard[1])

        assert 0 == wait_simply(child_of(fork, child))
        return [guard[0], guard[1]]

    assert [1, 1] == in_child(run)
