"""Label sets that are made and removed for ever: the files stay short, and the page is right at every moment."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING, Any

import processes
import pytest
from processes import fork, share
from prometheus_client import Histogram
from test_removal import make, shown, use
from test_values import MODES

from wsgi_prom.client.patch import install
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.removing import removing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# In bytes. 256 rows that are made before the first look for removed ones, and a few hundred beside them.
SHORT = 65536


def size(path: Path) -> int:
    """Return the bytes of keys and values of all slots."""
    return sum(
        file.stat().st_size for kind in ("keys", "values") for file in path.glob(f"wsgi_prom.*.{kind}")
    )


class Churning:
    """
    A process that makes label sets, each with its own number as its value, and removes its own and others'.

    Those whose number is a multiple of 10 are not removed by anybody.
    """

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number
        self._metric: Any = None
        self.child = processes.Child(self._run)

    def _run(self, first: int, last: int, kind: str = "counter") -> None:
        if self._metric is None:
            share(self._path)
            install()
            self._metric = make(kind)
        choice = random.Random(first)
        for number in range(first, last):
            self._metric.labels("job", str(number)).inc(number)
            removed = number - choice.randrange(20)
            if removed % 10:
                self._metric.remove("job", str(removed))
            # One of another process.
            removed = choice.randrange(4) * 10**6 + number % 10**6 - choice.randrange(20)
            if removed % 10:
                self._metric.remove("job", str(removed))


def check(found: dict[str, float]) -> None:
    """Check that no label set has the figure of another one."""
    assert [] == [(user, value) for user, value in found.items() if value not in (0.0, float(user))]


@pytest.fixture
def start(shared: Path) -> Iterator[Callable[[], Churning]]:
    made: list[Churning] = []

    def begin() -> Churning:
        made.append(Churning(shared, len(made)))
        return made[-1]

    yield begin
    for each in made:
        each.child.__exit__()


def test_label_sets_that_are_removed_do_not_fill_a_slot(in_child: Callable[..., Any], shared: Path) -> None:
    """A process that removes what it makes keeps files as long as what it has at a time; the last ones are on the page."""

    def run() -> list[Any]:
        share(shared)
        install()
        metric, kept = make("counter"), Histogram("t_y", "Help.", ["user"], registry=None)
        kept.labels("kept").observe(1)
        for number in range(12_000):
            metric.labels("job", f"tenant-{number}").inc()
            if number % 100 == 99:
                metric.clear()
        metric.labels("job", "last").inc(7)
        return [size(shared) < SHORT, shown(shared)]

    assert [True, {"last": 7.0, "kept": 1.0}] == in_child(run)


def test_processes_that_make_and_remove_show_no_wrong_figure(
    start: Callable[[], Churning], shared: Path
) -> None:
    """
    While four processes remove each other's label sets, no scrape shows one with another's figure; those that nobody removes
    are all there in the end, and the files are short.
    """
    workers = [start() for _ in range(4)]
    for number, each in enumerate(workers):
        each.child.send(number * 10**6 + 1, number * 10**6 + 700)
    collector = Collector(shared)
    for _ in range(40):
        if (shared / "wsgi_prom.lock").exists():
            for source in (collector, Collector(shared)):
                check(shown(source))
    for each in workers:
        each.child.receive()
    expected = {
        number
        for first in range(0, 4 * 10**6, 10**6)
        for number in range(first, first + 700, 10)
        if number != first
    }
    for source in (collector, Collector(shared)):
        found = shown(source)
        check(found)
        assert set() == {number for number in expected if found.get(str(number)) != number}
    assert size(shared) < 4 * SHORT
    assert [] == list(shared.glob("*.bad"))


def test_processes_that_are_killed_leave_slots_that_are_right(
    start: Callable[[], Churning], shared: Path
) -> None:
    """A process is killed while it gives removed rows to other label sets; the next one goes on in its files."""
    other = start()
    other.child.call(1, 2)
    for first in range(10**6, 11 * 10**6, 10**6):
        worker = start()
        worker.child.call(first, first + 300)
        worker.child.send(first + 300, first + 10**6)
        for _ in range(random.randrange(4)):
            check(shown(shared))
        worker.child.kill()
        found = shown(shared)
        check(found)
        assert [] == [n for n in range(first, first + 300, 10) if found.get(str(n)) != n]
    assert [] == list(shared.glob("*.bad"))
    assert 2 == len(list(shared.glob("wsgi_prom.*.values")))


@pytest.mark.parametrize("kind", ["summary", "histogram", *MODES])
def test_a_row_that_is_used_again_begins_at_zero(
    in_child: Callable[..., Any], shared: Path, kind: str
) -> None:
    """Another label set's row has nothing of what its former label set had, in any type and mode."""

    def run() -> list[Any]:
        share(shared)
        install()
        metric, collector = make(kind), Collector(shared)
        for turn in range(3):
            for number in range(400):
                for _ in range(3):
                    use(metric, "former", f"user {turn}-{number}")
            shown(collector)
            metric.clear()
        before = size(shared)
        for number in range(300):
            metric.labels("later", f"new {number}")
            if number % 2:
                use(metric, "later", f"new {number}")
        assert before == size(shared)
        found = shown(collector)
        assert shown(shared) == found
        return found

    # One of a most recent mode that nobody has set is not shown.
    shows_all = not kind.endswith("mostrecent")
    expected = {f"new {number}": float(number % 2) for number in range(300) if number % 2 or shows_all}
    assert expected == in_child(run)


def test_a_kept_child_does_not_record_into_another_label_set(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """An object that the application keeps after another process's removal records to nothing, also when its row is another's."""

    def run() -> dict[str, float]:
        share(shared)
        install()
        metric = make("counter")
        kept = [metric.labels("kept", f"{number:05}") for number in range(300)]
        kept[0].inc()
        fork(metric.clear)
        for number in range(300):
            metric.labels("new", f"{number:05}").inc()
            kept[number].inc(100)
        return shown(shared)

    assert {f"{number:05}": 1.0 for number in range(300)} == in_child(run)


@pytest.mark.parametrize("used", ["and used again", "and not used again"])
def test_a_child_does_not_bring_back_what_was_removed_before_its_fork(
    in_child: Callable[..., Any], shared: Path, used: str
) -> None:
    """A process forks before it has noticed another's removal: the child has nothing of the removed label sets."""

    def run() -> list[dict[str, float]]:
        share(shared)
        install()
        metric = make("counter")
        for number in range(300):
            use(metric, "a", f"{number}")
        use(metric, "a", "kept")
        fork(lambda: [metric.remove("a", f"{number}") for number in range(300)])

        def in_fork() -> None:
            if used == "and used again":
                use(metric, "a", "7")
            else:
                use(metric, "a", "kept")

        child = processes.Child(in_fork)
        if used == "and used again":
            # The parent gives the rows to others, before the child has looked at them.
            for number in range(300, 600):
                use(metric, "a", f"{number}")
            metric.remove_by_labels({"kind": "a"})
            use(metric, "a", "kept")
        child.call()
        found = shown(shared)
        child.stop()
        return [found]

    expected = {"kept": 1.0, "7": 1.0} if used == "and used again" else {"kept": 2.0}
    assert [expected] == in_child(run)


def test_a_row_that_is_used_again_has_no_exemplar_of_its_former_label_set(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """Exemplars are of the label set that the row has now."""

    def run() -> set[tuple[str, str]]:
        share(shared)
        install()
        metric, collector = make("counter"), Collector(shared)
        for number in range(300):
            metric.labels("a", f"{number}").inc(1, {"trace": f"former {number}"})
        collector.collect()
        metric.clear()
        for number in range(300):
            metric.labels("b", f"{number}").inc(1, {"trace": f"new {number}"} if number % 2 else None)
        return {
            (sample.labels["user"], sample.exemplar.labels["trace"])
            for family in collector.collect().to_metrics()
            for sample in family.samples
            if sample.exemplar is not None
        }

    assert {(f"{number}", f"new {number}") for number in range(1, 300, 2)} == in_child(run)


def test_a_copy_of_a_slot_has_the_rows_that_were_used_again(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """The files are gone after rows were given to other label sets: an exporter that has read them goes on with the copy."""

    def run() -> list[dict[str, float]]:
        share(shared)
        install()
        metric, collector = make("counter"), Collector(shared)
        for number in range(300):
            use(metric, "a", f"{number}")
        shown(collector)
        metric.clear()
        for number in range(300, 500):
            use(metric, "a", f"{number}")
        for file in shared.glob("wsgi_prom.0.*"):
            file.unlink()
        current_slot.check()
        use(metric, "a", "300")
        return [shown(collector), shown(shared)]

    expected = {**{f"{number}": 1.0 for number in range(301, 500)}, "300": 2.0}
    assert [expected, expected] == in_child(run)


def test_rows_are_not_given_away_while_a_removal_is_in_progress(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """
    A process that is stopped in the middle of a removal delays nobody: the slot's owner makes rows at the end of its files,
    where those of former label sets come back too. Afterwards it gives rows away again.
    """

    def run() -> list[Any]:
        share(shared)
        install()
        metric, collector, found = make("counter"), Collector(shared), []
        for number in range(300):
            use(metric, "a", f"{number}")
        shown(collector)
        metric.clear()
        fd = os.open(shared / "wsgi_prom.0.values", os.O_RDWR)
        with removing(fd):
            for number in range(200, 400):
                use(metric, "a", f"{number}")
        found += [shown(collector), shown(shared)]
        metric.remove("a", "250")
        fork(lambda: metric.remove("a", "251"))
        use(metric, "a", "250")
        found += [shown(collector), shown(shared)]
        for turn in range(5):
            metric.clear()
            for number in range(300):
                use(metric, "b", f"{turn * 300 + number}")
        found += [shown(collector), shown(shared)]
        return [size(shared) < SHORT, *found]

    expected = {f"{number}": 1.0 for number in range(200, 400)}
    without = {user: value for user, value in expected.items() if user != "251"}
    last = {f"{number}": 1.0 for number in range(1200, 1500)}
    assert [True, expected, expected, without, without, last, last] == in_child(run)


def test_threads_lose_nothing_while_rows_are_given_away(in_child: Callable[..., Any], shared: Path) -> None:
    """Three threads make and remove label sets, and another process removes some of theirs: what nobody removes is exact."""

    def run() -> list[Any]:
        share(shared)
        install()
        metric = make("counter")
        kept = metric.labels("a", "kept")
        kept.inc()

        def churn(first: int) -> None:
            for number in range(first, first + 600):
                metric.labels("job", str(number)).inc(number)
                kept.inc()
                if (number - 3) % 10:
                    metric.remove("job", str(number - 3))

        def remove_others() -> None:
            for number in range(600):
                for first in (10**6, 2 * 10**6, 3 * 10**6):
                    if number % 10:
                        metric.remove("job", str(first + number))

        child = processes.Child(remove_others)
        child.send()
        threads = [threading.Thread(target=churn, args=(turn * 10**6,)) for turn in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        child.receive()
        child.stop()
        found = shown(shared)
        return [
            found.pop("kept"),
            [user for user, value in found.items() if value != float(user)],
            [
                n
                for turn in (1, 2, 3)
                for n in range(turn * 10**6, turn * 10**6 + 600, 10)
                if str(n) not in found
            ],
            size(shared) < 2 * SHORT,
        ]

    assert [1801.0, [], [], True] == in_child(run)
