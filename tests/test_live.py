"""What a person is shown: rates, quantiles and shares of two readings, and what is kept while somebody looks."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import live
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from demo.quantile import histogram_quantile
from wsgi_prom import metrics
from wsgi_prom.exporter.page_cache import Pages
from wsgi_prom.live import tables, text
from wsgi_prom.live.comparison import follow, rates, view
from wsgi_prom.live.durations import Durations, Quantile, of_counts
from wsgi_prom.live.figures import Figures, Process, Route, RouteKey
from wsgi_prom.live.history import History
from wsgi_prom.live.view import RouteRow, View, ViewError, WorkerRow
from wsgi_prom.server.workers import WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOUNDS = (0.1, 1.0, math.inf)
INDEX = RouteKey("GET", "/")


def durations(*counts: float, seconds: float = 0.0) -> Durations:
    return Durations(BOUNDS, array("d", counts), seconds)


def reading(clock: float, requests: float = 0.0, *, start: float = 0.0, **more: Any) -> Figures:
    """Return the figures of a server with one route that is counted since *start*."""
    routes = {INDEX: Route(requests, 0.0, start, durations(requests, requests, requests, seconds=requests))}
    return Figures(clock, 1000.0 + clock, routes, **more)


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=6),
    st.floats(0.01, 1.0),
)
def test_quantiles_are_those_of_promql(counts: list[int], share: float) -> None:
    """They are what histogram_quantile gives; above the highest bound it is said that they are above."""
    bounds = [*[0.1 * 2**number for number in range(len(counts) - 1)], math.inf]
    cumulative = [sum(counts[: number + 1]) for number in range(len(counts))]
    found = of_counts(tuple(bounds), map(float, cumulative), 0.0)
    assert found is not None
    quantile = found.quantile(share)
    if not cumulative[-1]:
        assert None is quantile
        return
    expected = histogram_quantile(share, dict(zip(bounds, cumulative, strict=True)))
    assert quantile is not None
    assert pytest.approx(expected) == quantile.seconds
    assert (share * cumulative[-1] > cumulative[-2]) == quantile.above


def test_a_quantile_beyond_the_bounds_is_no_number() -> None:
    """The p99 of durations beyond all bounds is above the highest, in words too; without durations there is none."""
    found = durations(1, 1, 100).quantile(0.99)
    assert Quantile(1.0, above=True) == found
    assert "> 1 s" == text.seconds(1.0, above=True)
    assert None is durations(0, 0, 0).quantile(0.99)


@pytest.mark.parametrize(
    "counts", [(), (1.0, 0.0, 2.0), (0.0, math.nan, 2.0), (0.0, 1.0, math.inf), (-1.0, 0.0, 1.0)], ids=str
)
def test_what_is_no_histogram_has_no_quantiles(counts: tuple[float, ...]) -> None:
    """Counts that sink, are below 0 or are not finite, of a metric of the application's that has the name, are left out."""
    assert None is of_counts(BOUNDS, counts, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "start", "rate"),
    [(10, 30, 0, 2.0), (30, 10, 0, 1.0), (30, 30, 0, 0.0), (None, 30, 0, 3.0), (None, 30, 1005, 3.0), (None, 30, 900, None)],
    ids=["more", "begins again", "none", "new", "new since then", "counted before, and not read"],
)  # fmt: skip
def test_rates_are_never_negative(
    before: float | None, after: float, start: float, rate: float | None
) -> None:
    """A count that sinks has begun again at 0; a series that was not there counts whole, unless it is older than that."""
    earlier = Figures(0.0, 1000.0) if before is None else reading(0.0, before, start=start)
    (row,) = view(earlier, reading(10.0, after, start=start)).routes
    assert rate == row.per_second


def test_shares_and_totals() -> None:
    """Errors are a share of the requests in between, and a route's time is a share of all routes' time."""
    slow = RouteKey("POST", "/slow")
    before = Figures(
        0.0, 1000.0, {INDEX: Route(100, 10, 0.0, durations(90, 100, 100, seconds=5.0)), slow: Route()}
    )
    after = Figures(
        10.0, 1010.0,
        {INDEX: Route(140, 20, 0.0, durations(130, 140, 140, seconds=6.0)), slow: Route(10, 0, 0.0, durations(0, 0, 10, seconds=3.0))},
    )  # fmt: skip
    found = view(before, after)
    assert [("/", 4.0, 0.25, 0.25), ("/slow", 1.0, 0.0, 0.75)] == [
        (row.route, row.per_second, row.error_share, row.time_share) for row in found.routes
    ]
    total = found.requests
    assert (150, 20, 5.0, 1.0, 0.2) == (
        total.requests, total.errors, total.per_second, total.errors_per_second, total.error_share,
    )  # fmt: skip
    assert (1.0, True) == (total.p99_seconds, total.p99_above)


def test_what_is_not_known_is_absent() -> None:
    """Without a reading before, histogram, gauge, workers and queue, their figures are None, and dashes in a text."""
    found = view(None, Figures(0.0, 1000.0, {INDEX: Route(5.0)}))
    (row,) = found.routes
    assert (5.0, None, None, None, None) == (
        row.requests, row.per_second, row.p99_seconds, row.error_share, row.time_share,
    )  # fmt: skip
    capacity = found.capacity
    assert (None, None, None, {}) == (
        capacity.load,
        capacity.utilisation,
        capacity.oldest_request_seconds,
        capacity.workers,
    )
    assert ([], [], []) == (found.workers, found.queues, found.exits)
    assert {text.UNKNOWN} == {
        text.rate(None), text.count(None), text.share(None), text.seconds(None), text.age(None), text.size(None),
    }  # fmt: skip
    nothing = view(None, Figures(0.0, 1000.0))
    assert (None, None) == (nothing.requests.requests, nothing.requests.per_second)


def busy(clock: float, ended: float, *ages: float, pid: int = 7, in_progress: int | None = None) -> Figures:
    """
    Return the figures of a worker whose requests took *ended* seconds, and who has some of *ages* in progress, or a number of
    them that overlap; 0 stands for a number that is not known.
    """
    number, known = (len(ages), ages) if in_progress is None else (in_progress or None, None)
    found = Figures(clock, clock, states={"0": WorkerState("0", "busy", pid, number, known)})
    found.samples[metrics.WORKER_BUSY[0]] = [({"worker": "0"}, ended)]
    found.samples[metrics.WORKER_CAPACITY[0]] = [({}, 4.0)]
    return found


@pytest.mark.parametrize(
    ("before", "after", "load"),
    [
        (busy(0, 5.0), busy(10, 8.0), 0.3),
        (busy(0, 5.0), busy(10, 5.0, 10.0), 1.0),
        (busy(0, 5.0, 20.0), busy(10, 5.0, 30.0), 1.0),
        (busy(0, 5.0, 20.0), busy(10, 30.0), 0.5),
        (busy(0, 5.0, 20.0), busy(10, 5.0, 1.0, pid=8), 0.1),
        (busy(0, 5.0, in_progress=3), busy(10, 5.0, in_progress=3), 3.0),
        (busy(0, 5.0, in_progress=3), busy(10, 95.0), 1.5),
        (busy(0, 5.0, 20.0), busy(10, 5.0, in_progress=2), 1.5),
        (busy(0, 5.0, in_progress=3, pid=8), busy(10, 5.0, in_progress=2), 1.0),
        (busy(0, 5.0, in_progress=0), busy(10, 8.0, in_progress=0), 0.3),
    ],
    ids=["ended", "began", "goes on", "was in progress", "killed", "overlap", "overlapped", "one more", "killed with several", "not counted"],
)  # fmt: skip
def test_load_counts_requests_in_progress(before: Figures, after: Figures, load: float) -> None:
    """
    A request counts while it lasts, not when it ends; requests that overlap by their number; a killed worker's not below 0.
    """
    follow(before, after)
    found = view(before, after)
    assert (pytest.approx(load), pytest.approx(load / 4)) == (
        found.workers[0].load,
        found.capacity.utilisation,
    )


def test_a_process_uses_the_processor() -> None:
    """The CPU time of a worker, and of another process of the server, is a share of one processor."""
    before, after = (busy(clock, 0.0) for clock in (0.0, 10.0))
    before.processes = {("0", "worker"): Process(1.0, 100.0), ("", "master"): Process(1.0, 50.0)}
    after.processes = {("0", "worker"): Process(6.0, 110.0), ("", "master"): Process(1.0, None)}
    found = view(before, after).workers
    assert [("0", "worker", 0.5, 110.0), ("", "master", 0.0, None)] == [
        (row.worker, row.role, row.cpu, row.resident_bytes) for row in found
    ]


def test_a_view_is_read_again_from_its_json() -> None:
    """JSON and back gives the same view, also one with a field that is not known here."""
    before, after = reading(0.0, 1.0), reading(10.0, 5.0)
    after.states["0"] = WorkerState("0", "idle", 7, 0, ())
    after.samples[metrics.WORKER_EXITS[0]] = [({"reason": "reload"}, 3.0)]
    expected = view(before, after)
    data = json.loads(json.dumps(expected.to_json()))
    data["requests"]["later"] = "field"
    assert expected == View.of_json(data)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
       st.sampled_from(["version", "time", "server", "requests", "capacity", "queues", "routes", "past"]))  # fmt: skip
def test_other_json_is_no_view(data: object, name: str) -> None:
    """Whatever else is answered is a view or a ViewError, in each of its places."""
    for found in (data, {**View().to_json(), name: data}):
        with contextlib.suppress(ViewError):
            assert isinstance(View.of_json(found), View)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, -1.0, 10**400], ids=str)
def test_no_time_is_no_view(value: float) -> None:
    """What no clock shows is refused, where it came from another server than an exporter."""
    with pytest.raises(ViewError):
        View.of_json({**View().to_json(), "time": value})


def test_a_figure_that_nobody_knows_is_no_sum() -> None:
    """Where no route's rate is known, neither is that of all."""
    after = reading(10.0, 30.0, start=900.0)
    assert (None, None) == (
        view(Figures(0.0, 1000.0), after).requests.per_second,
        rates(Figures(0.0, 1000.0), after).per_second,
    )


class Clocked:
    """Readings that are counted; each is taken when the test lets it."""

    def __init__(self) -> None:
        self.number = 0
        self.clock: Callable[[], float] = lambda: float(self.number)

    def read(self) -> Figures:
        self.number += 1
        return reading(self.clock(), float(self.number))


@pytest.mark.parametrize("took", [0.0, 5.0])
def test_all_who_look_share_a_reading(took: float) -> None:
    """Twenty who look within the same second get the same reading, also one that took long."""
    source = Clocked()
    source.clock = lambda: time.monotonic() - took
    history = History(source.read)
    gate = threading.Barrier(20)
    with ThreadPoolExecutor(20) as pool:
        found = {view.time for view in pool.map(lambda _: (gate.wait(60), history.look())[1], range(20))}
    assert (1, 1) == (len(found), source.number)


def test_nothing_is_kept_when_nobody_looks() -> None:
    """Some time after the last look the readings are dropped, and no thread is left; the next look begins anew."""
    history = History(Clocked().read, idle=0.05)
    before = threading.active_count()
    history.look()
    assert live.eventually(lambda: history.figures, lambda found: found is None) is None
    assert live.eventually(threading.active_count, lambda number: number <= before) <= before
    assert None is history.look().seconds


def test_the_past_is_bounded() -> None:
    """Rates are over ten seconds, and lines have the last five minutes, however long somebody looks."""
    history = History(Clocked().read, shared=0.0, busy=1.0)
    for _ in range(400):
        found = history.look()
    assert (10.0, 1.0) == (found.seconds, found.requests.per_second)
    times = found.past.times
    assert (301, 300.0, 400) == (len(times), times[-1] - times[0], found.requests.requests)
    assert {1.0} == set(found.past.per_second)


def test_the_past_of_a_clock_that_is_set_back_is_dropped() -> None:
    """When the wall clock goes back by a day, the lines begin anew: none has points of a time to come."""
    source = Clocked()

    def read() -> Figures:
        found = source.read()
        return replace(found, time=found.time - (86400.0 if source.number > 5 else 0.0))

    history = History(read, shared=0.0, busy=1.0)
    for _ in range(8):
        found = history.look()
    assert ([-2.0, -1.0, 0.0], 7.0) == ([time - found.time for time in found.past.times], found.seconds)


def test_readings_that_take_long_are_fewer() -> None:
    """Who looks again gets the same reading for as long as another one would take more than its share of a processor."""
    source = Clocked()
    history = History(source.read, shared=0.0, busy=1e-9)
    assert history.look() is history.look()
    assert 1 == source.number


def test_figures_of_another_server_are_not_compared() -> None:
    """When a directory's next server is read, there are no rates, and no lines, until its second reading."""
    source = Clocked()
    history = History(lambda: replace(source.read(), beginning=source.number // 3), shared=0.0, busy=1.0)
    assert [None, 1.0, None, 1.0] == [history.look().seconds for _ in range(4)]
    assert 1 == len(history.look().past.times) - 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.seconds, {0: "0 s", 0.0004: "0.4 ms", 0.0025: "2.5 ms", 0.25: "250 ms", 1: "1.00 s", 12.34: "12.3 s", 100: "2 min", 86400: "24 h", 1e6: "12 d"}),
        (text.rate, {0: "0", 0.001: "<0.01", 1.234: "1.23", 12.34: "12.3", 1234.5: "1,234"}),
        (text.share, {0: "0 %", 0.0001: "<0.1 %", 0.012: "1.2 %", 0.5: "50 %", 1: "100 %"}),
        (text.size, {0: "0.0 MiB", 2**20 * 1.5: "1.5 MiB", 2**30: "1,024 MiB"}),
        (text.age, {0: "0 s", 59.6: "60 s", 7200: "2 h"}),
        (text.count, {0: "0", 1234567: "1,234,567"}),
    ],
    ids=["seconds", "rate", "share", "size", "age", "count"],
)  # fmt: skip
def test_figures_have_few_digits(shown: Callable[[float], str], expected: dict[float, str]) -> None:
    """A figure has at most three digits that differ, and its unit; what is little is not shown as nothing."""
    assert expected == {value: shown(value) for value in expected}


def test_rows_are_sorted_and_chosen() -> None:
    """Figures from the largest, texts from a to z, or in reverse; the unknown last; workers by number, then other processes."""
    rows = [
        RouteRow(route="/b", per_second=1.0),
        RouteRow(route="/a", per_second=None),
        RouteRow(route="/c", per_second=5.0),
    ]

    def order(key: str, **options: bool) -> list[str]:
        return [row.route for row in tables.ROUTES.sorted(rows, key, **options)]

    assert [["/c", "/b", "/a"], ["/b", "/c", "/a"], ["/a", "/b", "/c"], ["/c", "/b", "/a"]] == [
        order("rate"), order("rate", reverse=True), order("route"), order("route", reverse=True),
    ]  # fmt: skip
    assert order("time") == order("no such column")
    workers = [WorkerRow("", "master"), WorkerRow("10", "worker"), WorkerRow("9", "worker")]
    assert ["9", "10", "master"] == [tables.worker_name(row) for row in tables.WORKERS.sorted(workers)]
    chosen = tables.matching([replace(row, method="GET") for row in rows], "get C", tables.route_names)
    assert ["/c"] == [row.route for row in chosen]


@pytest.mark.parametrize(
    ("settings", "absent"),
    [({}, set()), ({"disable": "http_request_duration_seconds,http_requests_in_progress"}, {"p50_seconds", "in_progress"}), ({"prefix": "shop_"}, set())],
    ids=["all", "disabled", "prefix"],
)  # fmt: skip
def test_figures_of_a_process(
    settings: dict[str, str], absent: set[str], recording: Callable[..., Any], shared: Path
) -> None:
    """Requests are found under their prefix; those of one method and route are one row; what is disabled is absent."""

    def record() -> dict[str, Any]:
        from wsgi_prom import PrometheusMiddleware

        def app(environ: Any, start_response: Any) -> list[bytes]:
            environ["wsgi_prom.route"] = "/"
            start_response(environ["status"], [("Content-Length", "2")])
            return [b"ok"]

        wrapped = PrometheusMiddleware(app, labels={"tenant": lambda environ: environ["tenant"]}, **settings)
        for tenant, status in (("a", "200 OK"), ("b", "200 OK"), ("b", "503 Busy")):
            environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "tenant": tenant, "status": status}
            list(wrapped(environ, lambda *_: lambda _: None))
        return view(None, Pages(shared, REGISTRY).figures(time.monotonic())).to_json()

    totals = recording(record)
    (row,) = totals["routes"]
    assert ("GET", "/", 3.0, 1.0) == (row["method"], row["route"], row["requests"], row["errors"])
    known = {"p50_seconds", "in_progress"}
    assert absent == {name for name in known if totals["requests"][name] is None}


def test_requests_of_other_names(recording: Callable[..., Any], shared: Path) -> None:
    """Requests of two prefixes, and of other names, are added up; those that the application counts itself, and figures of no number, are left out."""

    def record() -> dict[str, Any]:
        from prometheus_client import Counter, Gauge

        from wsgi_prom import PrometheusMiddleware

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]

        for options in ({"prefix": "shop_"}, {"prefix": "blog_"}, {"prefix": "blog_", "names": "otel"}):
            wrapped = PrometheusMiddleware(app, **options)
            list(wrapped({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: lambda _: None))
        labels = ["method", "route", "status"]
        Counter("client_http_requests", "Sent.", labels, registry=None).labels("GET", "/", "200").inc(100)
        Gauge("wsgi_workers", "Not ours.", ["state"], registry=None).labels("idle").set(math.nan)
        return view(None, Pages(shared, REGISTRY).figures(time.monotonic())).to_json()

    found = recording(record)
    assert [("GET", metrics.UNMATCHED, 3.0)] == [
        (row["method"], row["route"], row["requests"]) for row in found["routes"]
    ]
    assert (0.0, {}) == (found["requests"]["in_progress"], found["capacity"]["workers"])
    assert found["requests"]["p50_seconds"] is not None
