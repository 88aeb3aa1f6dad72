"""remove(), remove_by_labels() and clear(): gone from the next scrape, for all processes, and back at 0 when used again."""

from __future__ import annotations

import random
import resource
import signal
import urllib.request
import warnings
from typing import TYPE_CHECKING, Any

import documents
import live
import processes
import pytest
import servers
from processes import fork, share
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from test_collector import READS, write_slot
from test_values import MODES

from wsgi_prom.client import remove_methods
from wsgi_prom.client.patch import install
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = ["kind", "user"]
# Of each process that records and removes.
USES = 1000


def make(kind: str, registry: CollectorRegistry | None = None) -> Any:
    if kind in MODES:
        return Gauge("t_x", "Help.", NAMES, registry=registry, multiprocess_mode=kind)  # type: ignore[arg-type]
    if kind == "histogram":
        return Histogram("t_x", "Help.", NAMES, registry=registry, buckets=(1, 2))
    return {"counter": Counter, "summary": Summary}[kind]("t_x", "Help.", NAMES, registry=registry)


def use(metric: Any, *labels: str) -> None:
    """Record once: no sample is above 1 then, if all were 0."""
    child = metric.labels(*labels)
    if "mostrecent" in getattr(metric, "_multiprocess_mode", ""):
        child.set(1)
    elif isinstance(metric, Counter | Gauge):
        child.inc()
    else:
        child.observe(1)


def shown(source: Path | Collector) -> dict[str, float]:
    """Return the greatest of each user's values on the page."""
    found: dict[str, float] = {}
    collector = source if isinstance(source, Collector) else Collector(source)
    for metric in collector.collect().to_metrics():
        for sample in metric.samples:
            if "user" in sample.labels:
                user = sample.labels["user"]
                found[user] = max(sample.value, found.get(user, 0.0))
    return found


class Worker:
    """A process with one metric, which does as it is told."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._metric: Any = None
        self._kept: Any = None
        self._child = processes.Child(self._obey)
        self.kill = self._child.kill
        self.send = self._child.send
        self.receive = self._child.receive

    def __call__(self, order: str, *arguments: Any) -> None:
        self._child.call(order, *arguments)

    def close(self) -> None:
        self._child.__exit__()

    def _obey(self, order: str, *arguments: Any) -> None:
        if self._metric is None:
            share(self._path)
            install()
            self._metric = make(self._kind)
        if order == "use":
            for _ in range(1 if len(arguments) < 3 else arguments[2]):
                use(self._metric, *arguments[:2])
        elif order == "keep":
            self._kept = self._metric.labels(*arguments)
            self._kept.inc()
        elif order == "use kept":
            self._kept.inc()
        elif order == "use and remove":
            choice = random.Random(*arguments)
            for _ in range(USES):
                use(self._metric, "a", choice.choice(["ann", "bob"]))
                if choice.random() < 0.02:
                    self._metric.remove("a", "ann")
        else:
            getattr(self._metric, order)(*arguments)


@pytest.fixture
def worker(shared: Path) -> Iterator[Callable[..., Worker]]:
    """Start a process that records into the shared directory."""
    made: list[Worker] = []

    def start(kind: str = "counter") -> Worker:
        made.append(Worker(shared, kind))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize("kind", ["counter", "summary", "histogram", *MODES])
def test_a_removed_label_set_is_gone_and_comes_back_at_zero(
    worker: Callable[..., Worker], shared: Path, kind: str
) -> None:
    """Whichever process removes it, and whichever has recorded it, in every type and mode."""
    first, second = worker(kind), worker(kind)
    collector = Collector(shared)
    for user in ("ann", "bob", "ann"):
        first("use", "a", user)
        second("use", "a", user)
    both = shown(collector)
    assert {"ann", "bob"} == set(both)
    first("remove", "a", "ann")
    assert {"bob": both["bob"]} == shown(collector) == shown(shared)
    second("use", "a", "ann")
    assert {"bob": both["bob"], "ann": 1.0} == shown(collector) == shown(shared)
    second("clear")
    assert {} == shown(collector) == shown(shared)
    first("use", "a", "bob")
    second("use", "b", "cal")
    assert {"bob": 1.0, "cal": 1.0} == shown(collector) == shown(shared)


def test_labels_select_what_is_removed(worker: Callable[..., Worker], shared: Path) -> None:
    """remove_by_labels() removes each label set that has all of the labels, and remove() one; other metrics stay."""
    first, second = worker(), worker()
    write_slot(shared, 9, [(READS, (), (1.0,))])
    for number, (kind, user) in enumerate((("a", "ann"), ("a", "bob"), ("b", "ann"), ("b", "dan"))):
        (first, second)[number % 2]("use", kind, user)
        first("use", kind, "eve")
    first("remove", "b", "bob")
    assert {"ann", "bob", "dan", "eve"} == set(shown(shared))
    first("remove_by_labels", {"user": "ann"})
    assert {"bob", "dan", "eve"} == set(shown(shared))
    second("remove_by_labels", {"kind": "b", "user": "eve"})
    assert {"bob": 1.0, "dan": 1.0, "eve": 2.0} == shown(shared)
    second("remove_by_labels", {"kind": "a"})
    first("remove_by_labels", {})
    assert {"dan": 1.0} == shown(shared)
    assert "reads" in {family.name for family in Collector(shared).collect()}


def test_rows_of_ended_processes_are_removed(worker: Callable[..., Worker], shared: Path) -> None:
    """A slot that nobody holds has no removed label set, and who claims it starts it from 0 when it is used."""
    ended, living = worker(), worker()
    ended("use", "a", "ann", 5)
    living("use", "a", "bob")
    ended.kill()
    living("remove", "a", "ann")
    assert {"bob": 1.0} == shown(shared)
    successor = worker()
    successor("use", "a", "cal")
    assert {"bob": 1.0, "cal": 1.0} == shown(shared)
    successor("use", "a", "ann")
    assert {"bob": 1.0, "cal": 1.0, "ann": 1.0} == shown(shared)
    assert 2 == len(list(shared.glob("wsgi_prom.*.values")))


def test_a_kept_child_records_to_nothing(worker: Callable[..., Worker], shared: Path) -> None:
    """A child object that the application keeps is of no label set after a removal, as in the client library, in all processes."""
    first, second = worker(), worker()
    for each in (first, second):
        each("keep", "a", "ann")
    first("remove", "a", "ann")
    for each in (first, second):
        each("use kept")
    assert {} == shown(shared)
    second("use", "a", "ann")
    for each in (first, second):
        each("use kept")
    assert {"ann": 1.0} == shown(shared)


def test_removal_before_a_directory_is_known(in_child: Callable[..., Any], shared: Path) -> None:
    """What a process has recorded in its own memory is removed from there, whether or not a directory comes later."""

    def run() -> list[dict[str, float]]:
        install()
        metric, same = make("counter"), make("counter")
        for user in ("ann", "bob", "ann"):
            use(metric, "a", user)
        use(same, "a", "ann")
        metric.remove("a", "ann")
        found = [shown(Collector(None))]
        use(same, "a", "ann")
        metric.remove("a", "bob")
        current_slot.attach(shared)
        found.append(shown(shared))
        use(metric, "a", "bob")
        return [*found, shown(shared)]

    assert [{"bob": 1.0}, {"ann": 1.0}, {"ann": 1.0, "bob": 1.0}] == in_child(run)


def test_a_forked_child_removes_what_its_parent_has(in_child: Callable[..., Any], shared: Path) -> None:
    """A child of a fork removes label sets of its parent's, and its parent those of its child; both start from 0 again."""

    def run() -> list[dict[str, float]]:
        share(shared)
        install()
        metric = make("counter")
        use(metric, "a", "ann")
        fork(lambda: (use(metric, "a", "bob"), use(metric, "a", "ann"), metric.remove("a", "ann")))
        found = [shown(shared)]
        metric.clear()
        fork(lambda: use(metric, "a", "ann"))
        use(metric, "a", "ann")
        return [*found, shown(shared)]

    assert [{"bob": 1.0}, {"ann": 2.0}] == in_child(run)


@pytest.mark.parametrize("used", ["and used again", "and not used again", "by a child that was kept"])
@pytest.mark.parametrize("kind", ["counter", "histogram", "livesum"])
def test_a_fork_does_not_bring_back_what_its_parent_has_not_noticed(
    in_child: Callable[..., Any], shared: Path, kind: str, used: str
) -> None:
    """A process forks before it has noticed another's removal: its child has nothing of the removed label set."""

    def run() -> dict[str, float]:
        share(shared)
        install()
        metric = make(kind)
        for user in ("ann", "ann", "bob"):
            use(metric, "a", user)
        kept = metric.labels("a", "ann")
        fork(lambda: metric.remove("a", "ann"))

        def in_fork() -> None:
            if used == "by a child that was kept":
                kept.observe(1) if kind == "histogram" else kept.inc()
            if used != "and not used again":
                use(metric, "a", "ann")
            use(metric, "a", "cal")

        with processes.Child(in_fork) as child:
            child.call()
            return shown(shared)

    ann = {} if used == "and not used again" else {"ann": 1.0}
    assert {"bob": 1.0, "cal": 1.0, **ann} == in_child(run)


def test_a_removal_while_a_copy_of_the_slot_waits_counts(in_child: Callable[..., Any], shared: Path) -> None:
    """The slot's files are gone, and there is no space for others: what is removed meanwhile is not in them later."""

    def run() -> dict[str, float]:
        share(shared)
        install()
        metric = make("counter")
        fork(lambda: [use(metric, "a", user) for user in ("ann", "ann", "bob")])
        # In the files of the process that has ended.
        use(metric, "a", "ann")
        for file in shared.glob("wsgi_prom.0.*"):
            file.unlink()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        current_slot.check()
        use(metric, "a", "ann")
        metric.remove("a", "ann")
        use(metric, "a", "bob")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        # On a busy machine a try takes so long that the next one is more than a second later.
        return live.eventually(lambda: (current_slot.check(), shown(shared))[1], bool)

    assert {"bob": 2.0} == in_child(run)


def test_a_slot_that_cannot_be_read_is_named(
    worker: Callable[..., Worker],
    in_child: Callable[..., Any],
    shared: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A removal that does not reach a slot says which and why, and reaches all others."""
    first, second = worker(), worker()
    first("use", "a", "ann")
    second("use", "a", "ann")
    second("use", "a", "bob")

    def run() -> list[str]:
        share(shared)
        install()
        metric = make("counter")
        use(metric, "a", "ann")
        with (shared / "wsgi_prom.0.keys").open("r+b") as keys:
            keys.write(b"damaged!")
        with caplog.at_level("WARNING"):
            metric.remove("a", "ann")
            metric.remove("a", "ann")
        return [record.getMessage() for record in caplog.records]

    (message,) = in_child(run)
    assert message.startswith("label sets of t_x are not removed from slot 0: ")
    assert {"bob": 1.0} == shown(shared)


@pytest.mark.parametrize("removed", ["before the scrape", "after the scrape", "and not used again"])
def test_a_removed_label_set_counts_on_in_a_copy_of_its_slot(
    in_child: Callable[..., Any], shared: Path, removed: str
) -> None:
    """Between two scrapes a label set is removed and used again, and the slot's files are gone: the page shows their copy."""

    def run() -> list[dict[str, float]]:
        share(shared)
        install()
        metric, collector, found = make("counter"), Collector(shared), []
        for user in ("ann", "ann", "bob"):
            use(metric, "a", user)
        if removed == "after the scrape":
            found.append(shown(collector))
        metric.remove("a", "ann")
        if removed != "after the scrape":
            found.append(shown(collector))
        if removed != "and not used again":
            use(metric, "a", "ann")
        for file in shared.glob("wsgi_prom.0.*"):
            file.unlink()
        current_slot.check()
        use(metric, "a", "bob")
        found.append(shown(collector))
        use(metric, "a", "bob")
        return [*found, shown(collector)]

    ann = {} if removed == "and not used again" else {"ann": 1.0}
    first = {"bob": 1.0, "ann": 2.0} if removed == "after the scrape" else {"bob": 1.0}
    assert [first, {"bob": 2.0, **ann}, {"bob": 3.0, **ann}] == in_child(run)


@pytest.mark.parametrize("kind", ["counter", "histogram"])
def test_a_kept_child_does_not_come_back_in_another_slot(
    in_child: Callable[..., Any], shared: Path, kind: str
) -> None:
    """A child object that the application keeps after a removal is in no slot: a forked process's, or one after a damage."""

    def run() -> list[dict[str, float]]:
        share(shared)
        install()
        metric = make(kind)
        kept = metric.labels("a", "ann")
        use(metric, "a", "ann")
        use(metric, "a", "bob")
        metric.remove("a", "ann")
        record = kept.inc if kind == "counter" else kept.observe

        def in_fork() -> None:
            record(1)
            use(metric, "a", "cal")

        fork(in_fork)
        found = [shown(shared)]
        with (shared / "wsgi_prom.0.values").open("r+b") as values:
            values.write(b"damaged!")
        current_slot.check()
        record(1)
        use(metric, "a", "cal")
        return [*found, shown(shared)]

    first, second = in_child(run)
    assert {"bob": 1.0, "cal": 1.0} == first
    assert {"bob", "cal"} == set(second)


def test_errors_and_warnings_are_those_of_one_process(in_child: Callable[..., Any], shared: Path) -> None:
    """A wrong number of labels, unknown ones and metrics without any are errors, as in the client library; nothing else warns."""

    def run() -> list[str]:
        share(shared)
        install()
        metric, plain = make("counter"), Counter("t_plain", "Help.", registry=None)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for wrong in (
                lambda: metric.remove("a"),
                lambda: metric.remove_by_labels({"colour": "red"}),
                lambda: metric.remove_by_labels(["a"]),
                plain.remove,
                lambda: plain.remove_by_labels({"a": "b"}),
            ):
                with pytest.raises((ValueError, TypeError)) as raised:
                    wrong()
                found.append(type(raised.value).__name__)
            plain.clear()
            use(metric, "a", "1")
            metric.remove("a", 1)
            metric.remove("a", "nobody")
            metric.labels(kind="a", user="2").inc()
            metric.remove_by_labels({"user": 2})
        assert {} == shown(shared)
        return found

    assert ["ValueError", "ValueError", "TypeError", "ValueError", "ValueError"] == in_child(run)


@pytest.mark.parametrize("kind", ["counter", "histogram", "max"])
def test_processes_that_remove_and_record_at_once(
    worker: Callable[..., Worker], shared: Path, kind: str
) -> None:
    """
    While four processes record and remove, a scrape shows no half of a row; other label sets lose nothing, and all count
    right from the last removal on.
    """
    workers = [worker(kind) for _ in range(4)]
    for number, each in enumerate(workers):
        each.send("use and remove", number)
    collector = Collector(shared)
    highest = 0.0
    for _ in range(60):
        found = shown(collector) if (shared / "wsgi_prom.lock").exists() else {}
        assert found.get("bob", 0.0) >= highest
        highest = found.get("bob", 0.0)
    for each in workers:
        each.receive()
    expected = []
    for number in range(4):
        choice = random.Random(number)
        uses = 0
        for _ in range(USES):
            uses += choice.choice(["ann", "bob"]) == "bob"
            choice.random()
        expected.append(uses)
    if kind != "histogram":
        assert (max if kind == "max" else sum)(expected) == shown(collector)["bob"]
    workers[0]("remove", "a", "ann")
    for each in workers:
        each.send("use", "a", "ann", 500)
    for each in workers:
        each.receive()
    assert (500 if kind == "max" else 2000) == shown(collector)["ann"]


# Of these, the one imports the application before it forks, the other afterwards.
@pytest.mark.parametrize("name", ["gunicorn gthread preload", "uwsgi lazy-apps"])
def test_a_worker_removes_for_all_workers_of_a_server(name: str) -> None:
    """
    What one worker removes is gone from the next scrape of the exporter, and shows exactly what is recorded after it, by
    whichever worker; a worker that takes the place of a killed one shows no more.
    """

    def ask(path: str) -> int:
        with urllib.request.urlopen(f"{server.url}{path}") as answer:
            return int(answer.read())

    def jobs() -> dict[str, float]:
        samples = server.samples()
        found = live.labelled(samples, "app_jobs_total")
        counts = live.labelled(samples, "app_job_seconds_count")
        states = {labels for labels, value in live.labelled(samples, "app_state").items() if value}
        assert {dict(labels)["job"] for labels in states} == {dict(labels)["job"] for labels in counts}
        for labels, value in counts.items():
            assert found[labels] == value
        return {dict(labels)["job"]: value for labels, value in found.items()}

    with servers.start(name, app="removing:app", workers=2) as server:
        pairs: set[tuple[int, int]] = set()
        users: set[int] = set()
        while len(users) < 2:
            users.add(ask("/use?job=kept"))
        total = jobs()["kept"]
        assert {"known": 0.0, "kept": total} == jobs()
        while len({user != remover for user, remover in pairs}) < 2 or len(pairs) < 3:
            user = ask("/use?job=a")
            assert {"known": 0.0, "kept": total, "a": 1.0} == jobs()
            pairs.add((user, ask("/remove?job=a")))
            assert {"known": 0.0, "kept": total} == jobs()
        remover = ask("/clear")
        assert {} == jobs()
        server.signal_child(next(iter(users - {remover})), signal.SIGKILL)
        live.eventually(lambda: ask("/use?job=b"), lambda pid: pid not in users)
        # What the master has made before it forks is not there again, but for a worker that imports the application anew.
        anew = {} if name in servers.IMPORTED_ONCE else {"known": 0.0}
        found = jobs()
        assert found == {**anew, "b": found["b"]}


def test_the_documentation_shows_what_there_is(tmp_path: Path) -> None:
    """The application and the requests of docs/removal.md lead to the page that the document shows."""
    blocks = documents.blocks((live.ROOT / "docs" / "removal.md").read_text())
    (tmp_path / "tasks.py").write_text(next(block.text for block in blocks if block.file == "tasks.py"))
    steps = documents.steps(next(block.text for block in blocks if block.language == "console"))
    with live.gunicorn("tasks:app", "--chdir", str(tmp_path), workers=4) as server:
        for command, shown in steps[1:-1]:
            _, path = command.strip("'").split(":8000")
            assert shown == server.get(path).body.decode()
        lines = [line for line in server.scrape().splitlines() if line.startswith("tasks_done")]
    assert steps[-1].shown.splitlines() == lines


def test_a_metric_that_cannot_forget_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where a metric of the application's own making has not what the library's have, that is logged once, not at each use."""

    class Strange:
        def __init__(self) -> None:
            self._metrics: dict[tuple[str, ...], Any] = {}

    strange = Strange()
    remove_methods.register(strange)
    for _ in range(3):
        remove_methods.forget_removed()
    del strange
    told = "what other processes have removed is not forgotten here (AttributeError: 'Strange' object has no attribute '_lock')"
    assert [told] == caplog.messages
