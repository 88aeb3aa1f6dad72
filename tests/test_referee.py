"""
The independent referee: whatever processes do with metrics, the client library's own multiprocess mode and wsgi_prom show
the same.

Real processes carry out each plan twice (tests/referee_worker.py). What may differ, and nothing else does:

- A `pid` label is the number of the slot with us. Both become the number of the process in the plan.
- The library shows a dead process's gauge of mode `all` for ever, we until another process takes the slot over. The
  library's sample is not compared from then on.
- The library counts the making of a metric as a record of its process: a master that never records shows zeros. Here the
  master records always, and a worker before it makes a child that it does not record in.
- A slot that was taken over still has a `livesum` gauge that its new owner does not use, as 0. That may be the only one.
- A value of 0 that a gauge of mode mostrecent was set to before it was adopted is not shown: the library's single-process
  value does not say whether it was ever set. Plans set others.
- Beside a negative bound of a histogram we show no sum, as the library in a single process and OpenMetrics.
- Sums of floats differ in their last bits by the order of the adding.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import pytest
from chaos.scale import scale
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import WAIT_SECONDS
from referee_worker import VARIABLE, End, Outcome, Page, Plan, Record, Scrape, Spec, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODES = [live + kind for live in ("", "live") for kind in ("all", "min", "max", "sum", "mostrecent")]
MOST_WORKERS = 5


class Way:
    """A process that carries out plans: by the client library or by us, with its multiprocess mode at import or not."""

    def __init__(self, way: str, *, multiprocess: bool) -> None:
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if multiprocess:
            environ[VARIABLE] = "set-anew-by-each-plan"
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "error",
                    "-c",
                    f"import referee_worker; referee_worker.serve({way!r}, {theirs.fileno()})",
                ],
                env=environ,
                pass_fds=[theirs.fileno()],
            )

    def carry_out(self, plan: Plan) -> Outcome:
        self._connection.send(plan)
        assert self._connection.poll(2 * WAIT_SECONDS), "no answer"
        succeeded, result = self._connection.recv()
        assert succeeded, result
        return result

    def close(self) -> None:
        self._connection.close()
        self._process.wait(WAIT_SECONDS)


@pytest.fixture(scope="module")
def ways() -> Iterator[Callable[..., Way]]:
    """
    The ways to carry out a plan, each started once.
    """
    started: dict[Any, Way] = {}

    def way(name: str, *, multiprocess: bool) -> Way:
        key = (name, multiprocess)
        if key not in started:
            started[key] = Way(name, multiprocess=multiprocess)
        return started[key]

    yield way
    for each in started.values():
        each.close()


# Many that add up exactly, so that a difference stands out, and any others.
AMOUNTS = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 10.0, 1e-3]) | st.floats(-1e6, 1e6).map(float)
TEXTS = st.sampled_from(["a"] * 6 + ["", "b", 'q"\\\n', "é", "\u2028,=", "1.0"])
LABELNAMES = st.sampled_from([(), (), ("x",), ("z", "a")])
BUCKETS = (
    st.lists(st.sampled_from([-1.0, 0.0, 0.1, 0.25, 1.0, 2.5, 1e3, 1e21, math.inf]), min_size=1, max_size=5)
    .map(lambda bounds: tuple(sorted(bounds)))
    .filter(lambda bounds: bounds != (math.inf,))
)


@st.composite
def specs(draw: Any) -> Spec:
    kind = draw(st.sampled_from(["counter", "gauge", "gauge", "gauge", "summary", "histogram"]))
    return Spec(
        kind,
        draw(LABELNAMES),
        mode=draw(st.sampled_from(MODES)) if kind == "gauge" else "",
        buckets=draw(BUCKETS) if kind == "histogram" else (),
        made=draw(st.sampled_from(["before", "after", "worker"])),
    )


@st.composite
def records(draw: Any, process: int, specs: tuple[Spec, ...], *, imported: bool = False) -> Record:
    usable = [number for number, spec in enumerate(specs) if not imported or spec.made != "worker"]
    number = draw(st.sampled_from(usable))
    spec = specs[number]
    methods = {"counter": ["inc", "inc", "touch", "reset"], "gauge": ["set", "inc", "dec", "touch"]}.get(
        spec.type, ["observe", "observe", "observe", "touch"]
    )
    if spec.mode.endswith("mostrecent"):
        methods = ["set", "set", "touch"]
    method = draw(st.sampled_from(methods))
    amount = None
    if method not in {"touch", "reset"}:
        amount = draw(AMOUNTS)
        if spec.type == "counter":
            amount = abs(amount)
        if imported and spec.mode.endswith("mostrecent"):
            amount = amount or 7.0
    labelvalues = tuple(draw(TEXTS) for _ in spec.labelnames)
    return Record(process, number, labelvalues, method, amount)


@st.composite
def plans(draw: Any, *, late: bool = True) -> Plan:
    chosen = tuple(draw(st.lists(specs(), min_size=1, max_size=3)))
    imported: list[Record] = []
    if any(spec.made != "worker" for spec in chosen):
        imported = draw(st.lists(records(0, chosen, imported=True), max_size=5))
    actions: list[Any] = []
    alive: list[int] = []
    workers = 0
    for _ in range(draw(st.integers(0, 24))):
        kind = draw(st.sampled_from(["record"] * 5 + ["start"] * 3 + ["end"] * 2 + ["scrape"]))
        if kind == "start" and workers < MOST_WORKERS:
            workers += 1
            alive.append(workers)
            actions.append(Start(records=draw(st.booleans()), unseen=draw(st.booleans())))
        elif kind == "end" and alive:
            process = draw(st.sampled_from(alive))
            alive.remove(process)
            actions.append(End(process, killed=draw(st.booleans())))
        elif kind == "record":
            actions.append(draw(records(draw(st.sampled_from([0, *alive])), chosen)))
        elif kind == "scrape":
            actions.append(Scrape())
    actions.append(Scrape())
    return Plan(chosen, tuple(imported), tuple(actions), late=late and draw(st.booleans()))


def check(plan: Plan, stock: Outcome, ours: Outcome) -> None:
    """Raise AssertionError unless both outcomes of *plan* are the same, as far as they may be."""
    assert len(stock.readings) == len(ours.readings)
    for expected, actual in zip(stock.readings, ours.readings, strict=True):
        assert close(expected, actual), f"read back {actual}, and {expected} from the library"
    for expected, actual in zip(stock.pages, ours.pages, strict=True):
        check_page(plan, expected, actual)
    assert most_at_once(plan) >= ours.files


def check_page(plan: Plan, stock: Page, ours: Page) -> None:
    assert [] == ours.duplicates
    superseded = {("pid", str(process)) for process in ours.superseded}
    expected = {key: value for key, value in stock.samples.items() if not superseded & set(key[1])}
    for number, spec in enumerate(plan.specs):
        if spec.buckets and spec.buckets[0] < 0:
            expected = {key: value for key, value in expected.items() if key[0] != f"metric_{number}_sum"}
        if spec.mode == "livesum" and ours.superseded:
            extra = {
                key for key, value in ours.samples.items() if key[0] == f"metric_{number}" and value == 0
            }
            expected.update(dict.fromkeys(extra - expected.keys(), 0.0))
    assert sorted(expected) == sorted(ours.samples)
    differing = {
        key: (value, ours.samples[key])
        for key, value in expected.items()
        if not close(value, ours.samples[key])
    }
    assert {} == differing
    # A family of which no sample is left may be named or not: it does not reach the page.
    shown = {name for name, _ in expected}
    for name in stock.types.keys() & ours.types.keys():
        assert stock.types[name] == ours.types[name]
    assert shown <= {
        name + suffix for name in ours.types for suffix in ("", "_total", "_sum", "_count", "_bucket")
    }


def close(expected: float, actual: float) -> bool:
    # The absolute part is for sums of large figures that cancel each other out.
    return math.isclose(expected, actual, rel_tol=1e-9, abs_tol=1e-6)


def most_at_once(plan: Plan) -> int:
    """Return how many processes of *plan* were ever alive at once, the master included."""
    alive = most = 1
    for action in plan.actions:
        alive += isinstance(action, Start) - isinstance(action, End)
        most = max(most, alive)
    return most


# Its examples are processes: their times say nothing about the strategies.
PACE = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


@settings(PACE, max_examples=scale.plans)
@given(plan=plans())
def test_shows_what_the_library_shows(ways: Callable[..., Way], plan: Plan) -> None:
    """
    An application started without the library's multiprocess mode shows under wsgi_prom what it would have shown in it.
    """
    stock = ways("stock", multiprocess=True).carry_out(plan)
    ours = ways("ours", multiprocess=False).carry_out(plan)
    check(plan, stock, ours)


@settings(PACE, max_examples=scale.plans // 2)
@given(plan=plans(late=False))
def test_adopts_from_the_multiprocess_mode(ways: Callable[..., Way], plan: Plan) -> None:
    """
    An application that already uses the multiprocess mode goes on with the same figures when wsgi_prom is installed.
    """
    stock = ways("stock", multiprocess=True).carry_out(plan)
    ours = ways("ours", multiprocess=True).carry_out(plan)
    check(plan, stock, ours)
