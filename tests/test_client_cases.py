"""
What the client library's own tests of its multiprocess mode promise, asked of ours by its `MultiProcessCollector`: in real
processes, where theirs change the library's idea of a pid.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from processes import Child
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, multiprocess
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from wsgi_prom.client import patch
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TYPES: dict[str, Callable[..., Any]] = {
    "counter": Counter, "gauge": Gauge, "histogram": Histogram, "summary": Summary,
}  # fmt: skip
LETTERS = dict(zip("abcd", "abcd", strict=True))
Values = dict[str, float | None]


class Process:
    """A process that makes metrics and records, and that the client library is told of when it has died."""

    def __init__(self) -> None:
        self._child = Child(_record)

    def record(
        self, kind: str, method: str = "", amount: float = 0, /, labels: Any = (), **options: Any
    ) -> None:
        self._child.call(kind, method, amount, labels, options)

    def die(self) -> None:
        self._child.kill()
        mark_process_dead(self._child.pid, os.environ["PROMETHEUS_MULTIPROC_DIR"])

    def close(self) -> None:
        self._child.__exit__()


_made: dict[str, Any] = {}


def _record(kind: str, method: str, amount: float, labels: Any, options: dict[str, Any]) -> None:
    # As a server's hook does at the start of a worker.
    current_slot.prepare()
    name = options.pop("name", kind[0])
    if name not in _made:
        _made[name] = TYPES[kind](name, f"{name} help", tuple(labels), registry=None, **options)
    metric = _made[name].labels(**labels) if labels else _made[name]
    if method:
        getattr(metric, method)(amount)


def _with_processes(shared: Path, case: Callable[..., Any]) -> Any:
    """Run *case* with two processes and a registry with the library's collector."""
    shared.mkdir(mode=0o700)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
    patch.install()
    registry = CollectorRegistry(support_collectors_without_names=True)
    MultiProcessCollector(registry)
    processes = Process(), Process()
    try:
        return case(registry, *processes)
    finally:
        for process in processes:
            process.close()


@pytest.fixture
def run(shared: Path, in_child: Any) -> Callable[..., Any]:
    return lambda case: in_child(lambda: _with_processes(shared, case))


def asked(registry: CollectorRegistry, names: Values) -> Values:
    """Return the values of samples by names such as `h_bucket le=5.0`."""
    found = {}
    for text in names:
        name, *labels = text.split()
        found[text] = registry.get_sample_value(name, dict(label.split("=") for label in labels))
    return found


# The kind, its options, what the first and the second process record; then what the page has when both have made it, when both
# have recorded, and when the first has died.
CASES: list[Any] = [
    ("counter", {}, ("inc", 1), ("inc", 2), {"c_total": 0}, {"c_total": 3}, {"c_total": 3}),
    ("summary", {}, ("observe", 1), ("observe", 2), {"s_count": 0, "s_sum": 0}, {"s_count": 2, "s_sum": 3}, {"s_count": 2, "s_sum": 3}),
    ("histogram", {}, ("observe", 1), ("observe", 2),
     {"h_count": 0, "h_sum": 0, "h_bucket le=5.0": 0}, {"h_count": 2, "h_sum": 3, "h_bucket le=5.0": 2}, {"h_count": 2, "h_sum": 3}),
    *(
        ("gauge", {"multiprocess_mode": mode}, ("set", 1), ("set", 2), *values)
        for mode, *values in (
            ("all", {"g pid=0": 0, "g pid=1": 0}, {"g pid=0": 1, "g pid=1": 2}, {"g pid=0": 1, "g pid=1": 2}),
            ("liveall", {"g pid=0": 0, "g pid=1": 0}, {"g pid=0": 1, "g pid=1": 2}, {"g pid=0": None, "g pid=1": 2}),
            ("min", {"g": 0}, {"g": 1}, {"g": 1}), ("livemin", {"g": 0}, {"g": 1}, {"g": 2}),
            ("max", {"g": 0}, {"g": 2}, {"g": 2}), ("sum", {"g": 0}, {"g": 3}, {"g": 3}), ("livesum", {"g": 0}, {"g": 3}, {"g": 2}),
        )
    ),
    ("gauge", {"multiprocess_mode": "livemax"}, ("set", 2), ("set", 1), {"g": 0}, {"g": 2}, {"g": 1}),
    ("counter", {"namespace": "ns", "subsystem": "ss"}, ("inc", 1), ("inc", 0), {"ns_ss_c_total": 0}, {"ns_ss_c_total": 1}, {"ns_ss_c_total": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "first", "second", "made", "recorded", "died"),
    CASES,
    ids=[f"{case[0]} {' '.join(case[1].values())}" for case in CASES],
)
def test_two_processes_add_up(
    kind: str,
    options: dict[str, Any],
    first: Any,
    second: Any,
    made: Values,
    recorded: Values,
    died: Values,
    run: Any,
) -> None:
    """Values of two processes are merged by type and mode, and the end of one is as `mark_process_dead` promises."""

    def case(registry: CollectorRegistry, one: Process, two: Process) -> list[Values]:
        found = []
        for process in (one, two):
            process.record(kind, **options)
        found.append(asked(registry, made))
        one.record(kind, *first)
        two.record(kind, *second)
        found.append(asked(registry, recorded))
        one.die()
        return [*found, asked(registry, died)]

    assert [made, recorded, died] == run(case)


@pytest.mark.parametrize(("mode", "last"), [("mostrecent", 1), ("livemostrecent", 2)])
def test_the_most_recent_setting_is_shown(mode: str, last: float, run: Any) -> None:
    """What was set last is shown, also after the death of its process unless the mode is a live one."""

    def case(registry: CollectorRegistry, one: Process, two: Process) -> list[Any]:
        two.record("gauge", "set", 2, multiprocess_mode=mode)
        one.record("gauge", "set", 1, multiprocess_mode=mode)
        before = registry.get_sample_value("g")
        one.die()
        return [before, registry.get_sample_value("g")]

    assert [1, last] == run(case)


def test_a_collection_is_whole(run: Any) -> None:
    """Labels, help, buckets in their order and counts of two processes are as the library's test has them."""

    def case(registry: CollectorRegistry, one: Process, two: Process) -> Any:
        for process, seconds in ((one, 1), (two, 5)):
            process.record("counter", "inc", 1, LETTERS)
            process.record("gauge", "set", 1, LETTERS)
            process.record("histogram", "observe", seconds, LETTERS)
        two.record("histogram", "observe", 1, {**LETTERS, "a": "other"})
        metrics = {metric.name: metric for metric in registry.collect()}
        (restricted,) = registry.restricted_registry(["c_total"]).collect()
        return (
            {name: metric.documentation for name, metric in metrics.items()},
            {name: [tuple(sample)[:3] for sample in metric.samples] for name, metric in metrics.items()},
            (restricted.name, [tuple(sample)[:3] for sample in restricted.samples]),
        )

    documentation, samples, restricted = run(case)
    assert {"c": "c help", "g": "g help", "h": "h help"} == documentation
    assert [("c_total", LETTERS, 2.0)] == samples["c"]
    assert ("c", [("c_total", LETTERS, 2.0)]) == restricted
    assert [("g", {**LETTERS, "pid": slot}, 1.0) for slot in "01"] == sorted(
        samples["g"], key=lambda sample: sample[1]["pid"]
    )
    bounds = [*map(str, Histogram.DEFAULT_BUCKETS[:-1]), "+Inf"]

    def histogram(labels: dict[str, str], one: float, five: float, total: float) -> list[Any]:
        counts = [0.0] * 9 + [one] * 2 + [five] * 4
        buckets = [("h_bucket", {**labels, "le": le}, n) for le, n in zip(bounds, counts, strict=True)]
        return [*buckets, ("h_count", labels, counts[-1]), ("h_sum", labels, total)]

    # The sum stands behind the buckets here, where OpenMetrics has it.
    assert samples["h"] == [
        *histogram(LETTERS, 1.0, 2.0, 6.0),
        *histogram({**LETTERS, "a": "other"}, 1.0, 1.0, 1.0),
    ]


def test_a_fork_goes_on_from_zero(run: Any) -> None:
    """A child's value begins at 0, and the page has the parent's too."""

    def case(registry: CollectorRegistry, *_: Process) -> list[Any]:
        counter = Counter("c", "help", registry=None)
        found: list[Any] = [registry.get_sample_value("c_total")]
        counter.inc()
        counter.inc()

        def in_fork() -> float:
            counter.inc()
            return float(counter._value.get())

        with Child(in_fork) as child:
            return [*found, child.call(), registry.get_sample_value("c_total"), counter._value.get()]

    assert [None, 1, 3, 2] == run(case)


class OfNamespace(Counter):
    """A subclass with a namespace of its own by default, which the library hands to each child (its issue 1035)."""

    def __init__(
        self, name: str, documentation: str, labelnames: Any = (), namespace: str = "mine", **more: Any
    ) -> None:
        self.namespace = namespace
        super().__init__(name, documentation, labelnames=labelnames, namespace=namespace, **more)


def test_a_childs_name_is_made_once(run: Any) -> None:
    """A child of a subclass that has a namespace by default has its parent's name, and knows its parent's namespace."""

    def case(registry: CollectorRegistry, *_: Process) -> list[Any]:
        counter = OfNamespace(
            "m", "help", ("status",), namespace="ns", subsystem="ss", unit="seconds", registry=None
        )
        for status in ("200", "404"):
            counter.labels(status).inc()
        (metric,) = registry.collect()
        return [counter.labels("200").namespace, metric.name, {sample.name for sample in metric.samples}]

    assert ["ns", "ns_ss_m_seconds", {"ns_ss_m_seconds_total"}] == run(case)


def test_files_of_the_library_can_still_be_merged(shared: Path, in_child: Any) -> None:
    """`merge` of files that are gone is empty, and `mark_process_dead` of a process without files does nothing."""

    def merged() -> list[Any]:
        shared.mkdir()
        os.environ.update({"prometheus_multiproc_dir": str(shared)})  # as it was named before 0.10
        patch.install()
        gone = [str(shared / f"gauge_{mode}_9999999.db") for mode in ("liveall", "livesum")]
        return [list(multiprocess.MultiProcessCollector.merge(gone)), mark_process_dead(123)]

    assert [[], None] == in_child(merged)
