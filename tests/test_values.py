"""Metrics of the client library in slots: what they read and show, when they are adopted, and what interrupts them."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from enum import Enum
from typing import TYPE_CHECKING, Any

import live
import processes
import prometheus_client
import pytest
from interruptions import at_each_instruction, needs_speed
from processes import fork, share
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client import values as client_values
from prometheus_client.multiprocess import MultiProcessCollector

from wsgi_prom.client import values as value_class
from wsgi_prom.client.patch import install
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.schemas import gauge as gauge_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = ["all", "min", "max", "sum", "mostrecent"]
MODES = [live + kind for live in ("", "live") for kind in KINDS]


def samples(path: Path, prefix: str = "t_") -> dict[str, float]:
    """Return what a scrape shows of this test's metrics, by name and labels as text."""
    return shown(Collector(path).collect().to_metrics(), prefix)


def shown(metrics: Any, prefix: str = "t_") -> dict[str, float]:
    found = {}
    for metric in metrics:
        for sample in metric.samples:
            if sample.name.startswith(prefix):
                labels = "".join(f" {name}={value}" for name, value in sorted(sample.labels.items()))
                assert sample.name + labels not in found
                found[sample.name + labels] = sample.value
    return found


@pytest.mark.parametrize("mode", MODES)
def test_a_gauge_reads_back_what_it_was_set_to(
    recording: Callable[..., Any], shared: Path, mode: str
) -> None:
    """
    In every mode a process reads its own gauge, and a scrape shows it.
    """

    def run() -> None:
        gauge = Gauge("t_gauge", "Help.", registry=None, multiprocess_mode=mode)
        for value in (5.0, 7.5, -3.0, 0.0, 2.0):
            gauge.set(value)
            assert value == gauge._value.get()
            assert [value] == list(samples(shared).values())
        if not mode.endswith("mostrecent"):
            gauge.inc(4)
            gauge.dec(1)
            assert 5.0 == gauge._value.get()
            assert [5.0] == list(samples(shared).values())

    recording(run)


@pytest.mark.parametrize("mode", MODES)
def test_a_successors_gauge_starts_at_its_own_value(
    recording: Callable[..., Any], shared: Path, mode: str
) -> None:
    """
    A process that takes a dead one's slot over reads 0 before it sets a gauge, and then what it set.
    """

    def run() -> None:
        gauge = Gauge("t_gauge", "Help.", registry=None, multiprocess_mode=mode)
        fork(lambda: gauge.set(5.0))

        def successor() -> None:
            current_slot.prepare()
            assert 0 == current_slot.slot.number
            assert 0.0 == gauge._value.get()
            gauge.set(3.0)
            assert 3.0 == gauge._value.get()

        fork(successor)

    recording(run)


# Of a process that set 5 and died, and one in the same slot that set 3 and lives.
AFTER = {"all": 3.0, "min": 3.0, "max": 5.0, "sum": 8.0, "mostrecent": 3.0}
AFTER_LIVE = dict.fromkeys(KINDS, 3.0)


@pytest.mark.parametrize("mode", MODES)
def test_dead_and_living_owners_of_a_slot_take_part_as_the_mode_says(
    recording: Callable[..., Any], shared: Path, mode: str
) -> None:
    """
    The dead count in min, max, sum and mostrecent, and in no live mode.
    """

    def run() -> dict[str, float]:
        gauge = Gauge("t_gauge", "Help.", registry=None, multiprocess_mode=mode)
        fork(lambda: gauge.set(5.0))
        gauge.set(3.0)
        return samples(shared)

    expected = {**{f"live{kind}": value for kind, value in AFTER_LIVE.items()}, **AFTER}[mode]
    assert [expected] == list(recording(run).values())


@pytest.mark.parametrize("mode", ["livemin", "livemax", "liveall", "all"])
def test_a_label_set_of_a_dead_owner_is_not_its_successors(
    recording: Callable[..., Any], shared: Path, mode: str
) -> None:
    """
    A gauge's label set that the slot's owner never used is not shown for it, and is no part of a minimum or maximum.
    """

    def run() -> dict[str, float]:
        gauge = Gauge("t_gauge", "Help.", ["page"], registry=None, multiprocess_mode=mode)
        holder = processes.Child(lambda value: gauge.labels("shared").set(value))
        holder.call(-4.0 if mode == "livemax" else 4.0)  # in slot 0

        def short() -> None:
            gauge.labels("own").set(5.0)
            gauge.labels("shared").set(6.0)

        fork(short)  # in slot 1
        other = processes.Child(
            lambda: current_slot.prepare() or Counter("t_other", "Help.", registry=None).inc()
        )
        other.call()  # in slot 1, and uses no gauge
        found = samples(shared)
        holder.__exit__()
        other.__exit__()
        return found

    found = recording(run)
    del found["t_other_total"]
    value = -4.0 if mode == "livemax" else 4.0
    expected = {"t_gauge page=shared pid=0" if mode.endswith("all") else "t_gauge page=shared": value}
    assert expected == found


def test_two_objects_of_one_series_add_up(recording: Callable[..., Any], shared: Path) -> None:
    """
    A metric that is made twice, in two registries, is one series with the records of both.
    """

    def run() -> dict[str, float]:
        pairs = [
            [kind("t_" + kind.__name__.lower(), "Help.", registry=CollectorRegistry()) for _ in range(2)]
            for kind in (Counter, Summary, Histogram)
        ]
        for counter in pairs[0]:
            counter.inc(2)
        for pair in pairs[1:]:
            for metric in pair:
                metric.observe(2)
        found = samples(shared)
        return {name: value for name, value in found.items() if "_bucket" not in name}

    expected = {
        "t_counter_total": 4.0,
        "t_summary_count": 2.0,
        "t_summary_sum": 4.0,
        "t_histogram_count": 2.0,
        "t_histogram_sum": 4.0,
    }
    assert expected == recording(run)


@pytest.mark.parametrize("mode", ["sum", "livesum"])
def test_two_gauges_of_one_series_count_up_and_down_together(
    recording: Callable[..., Any], shared: Path, mode: str
) -> None:
    """Two objects of one gauge that only inc and dec show the sum of both."""

    def run() -> dict[str, float]:
        first, second = (
            Gauge("t_busy", "Help.", registry=CollectorRegistry(), multiprocess_mode=mode) for _ in range(2)
        )
        first.inc()
        second.inc()
        second.inc()
        first.dec()
        return samples(shared)

    assert {"t_busy": 2.0} == recording(run)


def test_two_objects_of_one_series_move_once(in_child: Callable[..., Any], shared: Path) -> None:
    """
    What two objects recorded in memory arrives in the slot once, and a child of the process starts without it.
    """

    def run() -> dict[str, float]:
        current_slot.defer()
        install()
        first, second = (Counter("t_hits", "Help.", registry=CollectorRegistry()) for _ in range(2))
        first.inc(2)
        second.inc(3)
        current_slot.attach(shared)
        assert {"t_hits_total": 5.0} == samples(shared)
        fork(lambda: (first.inc(), second.inc()))
        return samples(shared)

    assert {"t_hits_total": 7.0} == in_child(run)


def make_all() -> dict[str, Any]:
    """Make a metric of each kind and mode, with and without labels."""
    labelled = {"labelnames": ["page"], "registry": None}
    found: dict[str, Any] = {
        "counter": Counter("t_counter", "Help.", registry=None),
        "counter_of": Counter("t_counter_of", "Help.", **labelled).labels("a"),
        "summary": Summary("t_summary", "Help.", registry=None),
        "summary_of": Summary("t_summary_of", "Help.", **labelled).labels("a"),
        "histogram": Histogram("t_histogram", "Help.", registry=None, buckets=[1, 2]),
        "histogram_of": Histogram("t_histogram_of", "Help.", **labelled, buckets=[1, 1e21]).labels("a"),
    }
    for mode in MODES:
        found[mode] = Gauge(f"t_{mode}", "Help.", registry=None, multiprocess_mode=mode)
        found[mode + "_of"] = Gauge(f"t_{mode}_of", "Help.", **labelled, multiprocess_mode=mode).labels("a")
    return found


def record_all(metrics: dict[str, Any], value: float) -> None:
    for metric in metrics.values():
        if isinstance(metric, Counter):
            metric.inc(value)
        elif isinstance(metric, Gauge):
            metric.set(value)
        else:
            metric.observe(value)


def own_values(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        name: metric._sum.get() if hasattr(metric, "_sum") else metric._value.get()
        for name, metric in metrics.items()
    }


@pytest.mark.parametrize("made", ["single", "multiprocess"])
def test_metrics_that_exist_already_are_adopted(
    in_child: Callable[..., Any], shared: Path, made: str
) -> None:
    """
    What was recorded before wsgi_prom was installed, in the library's one or other mode, is shown once and goes on.
    """

    def run() -> tuple[dict[str, float], dict[str, float]]:
        shared.mkdir(mode=0o700)
        share(shared)
        client_values.ValueClass = (
            client_values.MutexValue if made == "single" else client_values.MultiProcessValue()
        )
        metrics = make_all()
        record_all(metrics, 1.5)
        before = own_values(metrics)
        install()
        assert before == own_values(metrics)
        current_slot.prepare()
        first = samples(shared)
        record_all(metrics, 1.5)
        return first, samples(shared)

    first, second = in_child(run)
    for kind in ("counter", "counter_of"):
        labels = " page=a" if kind.endswith("_of") else ""
        assert (1.5, 3.0) == (first[f"t_{kind}_total{labels}"], second[f"t_{kind}_total{labels}"])
    for kind in ("summary", "summary_of", "histogram", "histogram_of"):
        labels = " page=a" if kind.endswith("_of") else ""
        assert (1.0, 2.0) == (first[f"t_{kind}_count{labels}"], second[f"t_{kind}_count{labels}"])
        assert (1.5, 3.0) == (first[f"t_{kind}_sum{labels}"], second[f"t_{kind}_sum{labels}"])
    assert 1.0 == first["t_histogram_bucket le=2.0"]
    assert 0.0 == first["t_histogram_of_bucket le=1.0 page=a"]
    gauges = {
        name: value for name, value in first.items() if name.split()[0].removesuffix("_of")[2:] in MODES
    }
    assert (2 * len(MODES), {1.5}) == (len(gauges), set(gauges.values()))
    assert first.keys() == second.keys()


def test_install_again_changes_nothing(recording: Callable[..., Any], shared: Path) -> None:
    """A second installation adopts nothing."""

    def run() -> dict[str, float]:
        counter = Counter("t_hits", "Help.", registry=None)
        counter.inc()
        install()
        counter.inc()
        return samples(shared)

    assert {"t_hits_total": 2.0} == recording(run)


def test_the_librarys_collector_is_answered_from_the_slots(
    recording: Callable[..., Any], shared: Path
) -> None:
    """
    Code that collects with MultiProcessCollector, made before or after the installation, sees what we have.
    """

    def run() -> list[dict[str, float]]:
        counter = Counter("t_hits", "Help.", registry=None)
        fork(counter.inc)
        counter.inc(2)
        registry = CollectorRegistry()
        collectors = [MultiProcessCollector(registry), MultiProcessCollector(None, path=str(shared))]
        page = prometheus_client.generate_latest(registry).decode()
        assert "\nt_hits_total 3.0\n" in page
        return [shown(collector.collect()) for collector in collectors]

    assert [{"t_hits_total": 3.0}] * 2 == recording(run)


def test_a_collector_from_before_the_installation_is_answered_too(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """
    An application may have made its MultiProcessCollector at import, before anything of ours ran.
    """

    def run() -> dict[str, float]:
        shared.mkdir(mode=0o700)
        share(shared)
        collector = MultiProcessCollector(CollectorRegistry())
        install()
        Counter("t_hits", "Help.", registry=None).inc()
        return shown(collector.collect())

    assert {"t_hits_total": 1.0} == in_child(run)


def test_a_histogram_is_one_row(recording: Callable[..., Any], shared: Path) -> None:
    """
    The buckets and the sum of each child are together, whatever is made in between and by whom.
    """

    def run() -> dict[str, float]:
        sys.setswitchinterval(1e-6)

        def make(number: int) -> None:
            for page in range(20):
                histogram = Histogram(f"t_h{number}_{page}", "Help.", ["page"], registry=None, buckets=[1, 2])
                summary = Summary(f"t_s{number}_{page}", "Help.", ["page"], registry=None)
                for label in "ab":
                    histogram.labels(label).observe(number)
                    summary.labels(label).observe(number)

        threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return samples(shared)

    found = recording(run)
    assert 4 * 20 * 2 * (5 + 2) == len(found)
    for number in range(4):
        for page in range(20):
            for label in "ab":
                buckets = [
                    found[f"t_h{number}_{page}_bucket le={le} page={label}"] for le in ("1.0", "2.0", "+Inf")
                ]
                assert [float(number <= 1), float(number <= 2), 1.0] == buckets
                assert float(number) == found[f"t_h{number}_{page}_sum page={label}"]
                assert float(number) == found[f"t_s{number}_{page}_sum page={label}"]
                assert 1.0 == found[f"t_s{number}_{page}_count page={label}"]


def test_a_histogram_with_a_bucket_twice_is_one(recording: Callable[..., Any], shared: Path) -> None:
    """
    The library lets a bound be given twice; it is shown once, with what was observed.
    """

    def run() -> dict[str, float]:
        histogram = Histogram("t_h", "Help.", registry=None, buckets=[1, 1, 2])
        histogram.observe(1)
        histogram.observe(3)
        return samples(shared)

    expected = {
        "t_h_bucket le=1.0": 1.0,
        "t_h_bucket le=2.0": 1.0,
        "t_h_bucket le=+Inf": 2.0,
        "t_h_count": 2.0,
        "t_h_sum": 4.0,
    }
    assert expected == recording(run)


def test_a_metric_without_help_or_with_any_is_kept(recording: Callable[..., Any], shared: Path) -> None:
    """
    No help text, and one of several lines, are read back by the slot's next owner.
    """

    def run() -> dict[str, float]:
        counters = [
            Counter(f"t_{number}", text, registry=None)
            for number, text in enumerate(["", "two\nlines", 'quotes " and \\', "é\u2028\udc80"])
        ]
        for _ in range(2):
            fork(lambda: [counter.inc() for counter in counters])
        return samples(shared)

    assert {f"t_{number}_total": 2.0 for number in range(4)} == recording(run)


def test_a_counter_can_be_reset(recording: Callable[..., Any], shared: Path) -> None:
    """
    Counter.reset() takes back what this process counted, as in the library's mode.
    """

    def run() -> dict[str, float]:
        counter = Counter("t_hits", "Help.", registry=None)
        fork(lambda: counter.inc(5))
        counter.inc(2)
        counter.reset()
        counter.inc()
        return samples(shared)

    assert {"t_hits_total": 6.0} == recording(run)


def test_exemplars_are_taken_and_not_kept(recording: Callable[..., Any], shared: Path) -> None:
    """An exemplar is accepted and ignored."""

    def run() -> dict[str, float]:
        counter = Counter("t_hits", "Help.", registry=None)
        counter.inc(1, exemplar={"trace": "abc"})
        Histogram("t_h", "Help.", registry=None, buckets=[1, 2]).observe(1, exemplar={"trace": "abc"})
        return samples(shared)

    found = recording(run)
    assert (1.0, 1.0) == (found["t_hits_total"], found["t_h_count"])


def test_a_registry_of_the_process_shows_its_own_figures(recording: Callable[..., Any]) -> None:
    """
    generate_latest of an ordinary registry shows what this process recorded, not what its slot holds.
    """

    def run() -> str:
        registry = CollectorRegistry()
        counter = Counter("t_hits", "Help.", registry=registry)
        fork(lambda: counter.inc(5))
        counter.inc(2)
        return prometheus_client.generate_latest(registry).decode()

    assert "\nt_hits_total 2.0\n" in recording(run)


# Those of one kind, and those of the dead, are recorded alike.
@needs_speed
@pytest.mark.parametrize("kind", ["counter", "all", "max", "livesum"])
def test_increments_of_a_signal_handler_are_counted(
    recording: Callable[..., Any], shared: Path, kind: str
) -> None:
    """
    A handler that increments while it interrupts an increment of the same series loses neither.
    """

    def run() -> tuple[float, float]:
        metric: Any = (
            Counter("t_hits", "Help.", registry=None)
            if kind == "counter"
            else Gauge("t_hits", "Help.", registry=None, multiprocess_mode=kind)
        )
        handled = 0

        def handle(*_: object) -> None:
            nonlocal handled
            handled += 1
            metric.inc()
            # Anew each time: a fixed pace may be faster than the handler is on a busy machine.
            if not over:
                signal.setitimer(signal.ITIMER_REAL, 0.00005)

        over = False
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.00005)
        done = 0
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            for _ in range(100):
                metric.inc()
            done += 100
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert handled > 0
        return float(done + handled), next(iter(samples(shared).values()))

    expected, actual = recording(run)
    assert expected == actual


@needs_speed
@pytest.mark.parametrize("mode", ["min", "livesum"])
def test_each_increment_of_a_signal_handler_is_stored(recording: Callable[..., Any], mode: str) -> None:
    """
    At any moment the slot holds what the main thread and the handler have added: nothing waits for the next record.
    """

    def run() -> tuple[int, int]:
        gauge = Gauge("t_hits", "Help.", registry=None, multiprocess_mode=mode)
        gauge.inc(0)
        columns, index = current_slot.row(gauge_schema("t_hits", "Help.", (), mode), ())
        handled = stale = 0

        def handle(*_: object) -> None:
            nonlocal handled
            handled += 1
            gauge.inc()
            signal.setitimer(signal.ITIMER_REAL, 0.00002)

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.00002)
        end = time.monotonic() + 0.5
        done = 0
        while time.monotonic() < end:
            gauge.inc()
            done += 1
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            stale += columns[index] != done + handled
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        signal.setitimer(signal.ITIMER_REAL, 0)
        return handled, stale

    handled, stale = recording(run)
    assert handled > 0
    assert 0 == stale


def test_labels_takes_what_the_library_takes(recording: Callable[..., Any]) -> None:
    """
    labels() takes positional, keyword and non-string values, and refuses what the library refuses with the same
    messages.
    """

    def refusal(call: Callable[[], object]) -> str:
        try:
            call()
        except (ValueError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return "taken"

    def run() -> Any:
        counter = Counter("t", "Help.", ["code", "path"], registry=None)
        plain = Counter("t_plain", "Help.", registry=None)
        children = [
            counter.labels("404", "/"), counter.labels(404, "/"), counter.labels(path="/", code=404),
            counter.labels(code="404", path="/"), counter.labels("404", "/"),
        ]  # fmt: skip
        texts = Enum("Texts", {"OK": "ok"}, type=str)
        named = [counter.labels("ok", "/"), counter.labels(texts.OK, "/")]
        assert [("ok", "/"), (str(texts.OK), "/")] == [child._labelvalues for child in named]
        unhashable = [counter.labels(["a"], "/"), counter.labels(["a"], "/")]
        counter.remove("404", "/")
        fresh = counter.labels("404", "/")
        calls: list[Callable[[], object]] = [
            lambda: counter.labels("404"),
            lambda: counter.labels("404", "/", "more"),
            lambda: counter.labels("404", path="/"),
            lambda: counter.labels(code="404"),
            lambda: fresh.labels("404", "/"),
            lambda: plain.labels("404"),
        ]
        return (
            all(child is children[0] for child in children),
            unhashable[0] is unhashable[1],
            fresh is children[0],
            [refusal(call) for call in calls],
        )

    same, same_text, kept, refusals = recording(run)
    library = Counter("t", "Help.", ["code", "path"], registry=None)
    expected = [
        refusal(lambda: library.labels("404")),
        refusal(lambda: library.labels("404", "/", "more")),
        refusal(lambda: library.labels("404", path="/")),
        refusal(lambda: library.labels(code="404")),
        refusal(lambda: library.labels("404", "/").labels("404", "/")),
        refusal(lambda: Counter("t_plain", "Help.", registry=None).labels("404")),
    ]
    assert (True, True, False) == (same, same_text, kept)
    assert expected == refusals
    assert "taken" not in refusals


@pytest.mark.parametrize("kind", [Counter, Histogram])
def test_the_same_child_made_at_any_step_of_its_making(
    recording: Callable[..., Any], shared: Path, kind: Any
) -> None:
    """A handler may make the same child at any instruction of its making: all three records are counted."""

    def run() -> list[str]:
        few = {"buckets": (1.0, 2.0)} if kind is Histogram else {}
        metrics = [kind(f"t_{number}", "Help.", ["n"], registry=None, **few) for number in range(1000)]

        def record(number: int) -> None:
            child = metrics[number].labels("same")
            child.observe(1) if hasattr(child, "observe") else child.inc()

        interrupted = at_each_instruction(record, record, value_class)
        for number in range(interrupted + 1):
            record(number)
        return [f"t_{number}" for number in range(interrupted + 1)]

    names = recording(run)
    expected = [3.0] * (len(names) - 1) + [2.0]  # the last was not interrupted
    shown = samples(shared, "t_")
    suffixes = ["_total"] if kind is Counter else ["_sum", "_count"]
    assert len(names) > 20
    for suffix in suffixes:
        assert expected == [shown[f"{name}{suffix} n=same"] for name in names]


@needs_speed
@pytest.mark.parametrize("by", ["signal handler", "finalizer"])
@pytest.mark.parametrize("kind", [Counter, Histogram])
def test_labels_in_the_middle_of_labels(
    recording: Callable[..., Any], shared: Path, kind: Any, by: str
) -> None:
    """
    A handler or finalizer may call labels() in the middle of labels() of the same metric: it does not hang, and all is
    counted.
    """

    def run() -> tuple[float, float]:
        registry = CollectorRegistry()
        metric = kind("t_hits", "Help.", ["n"], registry=registry)
        recorded = 0

        def record(label: str) -> None:
            nonlocal recorded
            recorded += 1
            child = metric.labels(label)
            child.observe(1) if hasattr(child, "observe") else child.inc()

        def interrupt(*_: object) -> None:
            record("old")
            record(f"handler {recorded}")
            if by == "signal handler" and not over:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)

        class Finalized:
            def __init__(self) -> None:
                self.me = self

            __del__ = interrupt

        over = False
        if by == "finalizer":
            gc.set_threshold(3)
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.0003 if by == "signal handler" else 0)
        for number in range(300):
            if by == "finalizer":
                Finalized()
            record("old")
            record(f"main {number}")
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        suffix = {Counter: "_total", Gauge: ""}.get(kind, "_sum")

        def shown_in_all() -> float:
            current_slot.check()
            return sum(
                value
                for name, value in samples(shared, "t_hits").items()
                if name.split(" ")[0] == "t_hits" + suffix
            )

        # What was recorded in the middle of the making of a line is kept in memory for a moment.
        return float(recorded), live.eventually(shown_in_all, lambda found: found == recorded, 10)

    expected, actual = recording(run)
    assert expected > 600
    assert expected == actual


@needs_speed
def test_a_signal_handler_may_make_new_series(recording: Callable[..., Any], shared: Path) -> None:
    """
    A handler that meets new labels while the main thread makes a series neither hangs nor spoils the slot.
    """

    def run() -> int:
        mine = Counter("t_mine", "Help.", ["n"], registry=None)
        handlers = Counter("t_handlers", "Help.", registry=None)
        made: list[Counter] = []

        def handle(*_: object) -> None:
            # Not labels() of the same metric, which waits for the library's own lock.
            made.append(Counter(f"t_made_{len(made)}", "Help.", registry=None))
            made[-1].inc()
            handlers.inc()
            if not over and len(made) < 500:  # on a busy machine there is always one more that is due
                signal.setitimer(signal.ITIMER_REAL, 0.0003)

        over = False
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        for number in range(4000):
            mine.labels(str(number)).inc()
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        found = samples(shared)
        assert 4000 == sum(name.startswith("t_mine") for name in found)
        assert () == report(shared)
        assert float(len(made)) == found["t_handlers_total"]
        return len(made)

    assert recording(run) > 0


def report(path: Path) -> tuple[str, ...]:
    collector = Collector(path)
    collector.collect()
    return collector.report.unreadable


@needs_speed
def test_a_signal_at_the_first_record_is_counted(in_child: Callable[..., Any], shared: Path) -> None:
    """
    A handler that records while the process claims its slot loses nothing.
    """

    def run() -> tuple[float, float]:
        share(shared)
        install()
        counters = [Counter(f"t_{number}", "Help.", registry=None) for number in range(300)]
        handled = 0

        def handle(*_: object) -> None:
            nonlocal handled
            handled += 1
            for counter in counters[::50]:
                counter.inc()
            if not over:
                signal.setitimer(signal.ITIMER_REAL, 0.0001)

        over = False
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0001)
        for counter in counters:
            counter.inc()
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        return 300.0 + 6 * handled, sum(samples(shared).values())

    for _ in range(5):
        expected, actual = in_child(run)
        assert expected == actual
        for file in shared.iterdir():
            file.unlink()


def test_increments_of_threads_are_counted(recording: Callable[..., Any], shared: Path) -> None:
    """
    Threads that increment one series at the same time lose nothing.
    """

    def run() -> dict[str, float]:
        sys.setswitchinterval(1e-6)
        counter = Counter("t_hits", "Help.", registry=None)
        gauge = Gauge("t_busy", "Help.", registry=None, multiprocess_mode="livesum")

        def record() -> None:
            for _ in range(20_000):
                counter.inc()
                gauge.inc()
                gauge.dec()

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return samples(shared)

    assert {"t_hits_total": 80_000.0, "t_busy": 0.0} == recording(run)


def test_a_finalizer_may_record(recording: Callable[..., Any], shared: Path) -> None:
    """
    A finalizer that records, run by the garbage collector at any moment, neither hangs nor loses anything.
    """

    def run() -> dict[str, float]:
        counter = Counter("t_hits", "Help.", registry=None)
        labelled = Counter("t_of", "Help.", ["n"], registry=None)

        class Finalized:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                counter.inc()

        gc.set_threshold(5)
        for number in range(2000):
            Finalized()
            labelled.labels(str(number)).inc()
            counter.inc()
        gc.collect()
        return samples(shared)

    found = recording(run)
    assert 4000.0 == found.pop("t_hits_total")
    assert 2000.0 == sum(found.values())


def test_without_a_directory_metrics_work_as_ever(in_child: Callable[..., Any]) -> None:
    """Without a directory the process's registry shows what it recorded."""

    def run() -> dict[str, float]:
        install()
        metrics = make_all()
        record_all(metrics, 1.5)
        assert {1.5} == set(own_values(metrics).values())
        return shown(Collector(None).collect().to_metrics())

    found = in_child(run)
    assert (1.5, 1.0) == (found["t_counter_total"], found["t_histogram_count"])
