"""
Metrics of any registry are on the page once, however they were registered; and the application's own ways to serve or push
the merged page have all of it.
"""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from typing import TYPE_CHECKING, Any

import live
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from samples import parse_samples
from webob import Request

from wsgi_prom import MetricsApp, metrics
from wsgi_prom.client import patch
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import pytest

WORKERS = 3
ORDERS = 12


def page(shared: Path, record: Callable[[], object]) -> dict[str, float]:
    """Return the page of this process, where *record* has made metrics and recorded; a series that is there twice is an error."""
    patch.install()
    current_slot.attach(shared)
    current_slot.prepare()
    record()
    collector = Collector(shared)
    text = render(collector.collect())
    # No family is there twice either.
    heads = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(heads) == len(set(heads))
    found = parse_samples(text)
    named = {f"{name}{sorted(labels) or ''}": value for (name, labels), value in found.items()}
    return {**named, "conflicts": float(collector.report.conflicts)}


def test_one_metric_in_two_registries_is_there_once(shared: Path, in_child: Any) -> None:
    """Registries are no matter: a metric of one, of two or of none is on the page, and of two of equal names the sum."""

    def record() -> None:
        one, two = CollectorRegistry(), CollectorRegistry()
        twice = Counter("twice", "T", registry=one)
        two.register(twice)
        twice.inc()
        Counter("of_none", "N", registry=None).inc(2)
        # Two modules that define the same metric, each in a registry of its own.
        for registry, amount in ((one, 3), (two, 4)):
            Counter("same", "S", ["a"], registry=registry).labels("x").inc(amount)

    assert {
        "twice_total": 1.0,
        "of_none_total": 2.0,
        "same_total[('a', 'x')]": 7.0,
        "conflicts": 0.0,
    } == in_child(lambda: page(shared, record))


def test_a_metric_that_is_made_again_goes_on(shared: Path, in_child: Any) -> None:
    """After `unregister` a metric of the same name may be made: the counter goes on, and a histogram of other bounds has both."""

    def record() -> None:
        for bound in (1.0, 2.0):
            counter = Counter("again", "A")
            counter.inc()
            histogram = Histogram("wait", "W", buckets=(bound,))
            histogram.observe(1.5)
            for metric in (counter, histogram):
                REGISTRY.unregister(metric)

    found = in_child(lambda: page(shared, record))
    assert {
        "again_total": 2.0,
        "wait_count": 2.0,
        "wait_sum": 3.0,
        "wait_bucket[('le', '2.0')]": 1.0,
        "conflicts": 0.0,
    }.items() <= found.items()


def test_metrics_that_cannot_stand_beside_each_other_cost_one_of_them(shared: Path, in_child: Any) -> None:
    """Of two metrics in different registries that would have samples of one name, the first is shown and the other counted."""

    def record() -> None:
        Counter("n", "N", registry=None).inc()
        Gauge("n", "N", registry=CollectorRegistry(), multiprocess_mode="max").set(5)
        Gauge("n_total", "N", registry=CollectorRegistry(), multiprocess_mode="max").set(6)

    assert {"n_total": 1.0, "conflicts": 2.0} == in_child(lambda: page(shared, record))


class Asked:
    """A custom collector of one gauge."""

    def __init__(self, name: str, value: float) -> None:
        self._name, self._value = name, value

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(self._name, "A", value=self._value)


class Elsewhere(Asked):
    """Another class."""


def test_what_stands_beside_a_multiprocess_collector_is_there_once(shared: Path, in_child: Any) -> None:
    """A registry may have custom collectors, gauges with a function, Infos and Enums beside it, as the library's own mode needs."""

    def lines(registry: CollectorRegistry) -> list[str]:
        return sorted(
            line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")
        )

    def pages() -> list[list[str]]:
        patch.install()
        current_slot.attach(shared)
        current_slot.prepare()
        merged, later = CollectorRegistry(), CollectorRegistry()
        MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
        beside: list[Any] = [
            Asked("jobs", 1.0),
            Info("build", "B", registry=None),
            Enum("state", "S", states=["up"], registry=None),
        ]
        threads = Gauge("threads", "T", ["kind"], multiprocess_mode="livesum", registry=None)
        threads.labels("all").set_function(lambda: 3)
        for registry in (merged, later):
            for collector in (*beside, threads):
                registry.register(collector)
        beside[1].info({"version": "1"})
        REGISTRY.register(Elsewhere("elsewhere", 2.0))
        Counter("hits", "H").inc()
        later.register(MultiProcessCollector(None))  # type: ignore[no-untyped-call]
        collector = Collector(shared)
        live.eventually(
            lambda: {metric.name for metric in collector.collect().to_metrics()},
            lambda names: {"jobs", "threads", "elsewhere"} <= names,
        )
        return [lines(merged), lines(later)]

    expected = [
        'build_info{version="1"} 1.0', "elsewhere 2.0", "hits_total 1.0", "jobs 1.0", 'state{state="up"} 1.0',
        'threads{kind="all"} 3.0',
    ]  # fmt: skip
    assert [expected, expected] == in_child(pages)


def test_a_function_takes_the_place_of_what_was_set(shared: Path, in_child: Any) -> None:
    """The figure that a gauge had before `set_function` is not shown until the function has answered, nor a 0; others stay."""

    def record() -> None:
        gauge = Gauge("g", "G", ["kind"], multiprocess_mode="livesum", registry=None)
        for kind in ("set", "function"):
            gauge.labels(kind).set(1)
        gauge.labels("function").set_function(lambda: 2)

    assert {"g[('kind', 'set')]": 1.0, "conflicts": 0.0} == in_child(lambda: page(shared, record))


class Pool(Asked):
    multiprocess_mode = "livesum"


def test_collectors_of_one_class_name_are_all_asked(shared: Path, in_child: Any) -> None:
    """
    Each of several classes of one name, as a factory makes them, has its figures; and when one of them is unregistered in one
    process, what the other one tells in several is still merged.
    """

    def values(collector: Collector) -> dict[str, float]:
        return {s.name: s.value for metric in collector.collect().to_metrics() for s in metric.samples}

    def pages() -> list[dict[str, float]]:
        patch.install()
        current_slot.attach(shared)
        current_slot.prepare()
        gone, kept = Pool("gone", 5.0), Pool("kept", 10.0)
        for collector in (gone, kept):
            REGISTRY.register(collector)
        for number in (1, 2):
            kind = type("Made" * 100, (Asked,), {})
            REGISTRY.register(kind(f"made_{number}", float(number)))
        merged = Collector(shared)
        found = [live.eventually(lambda: values(merged), lambda found: len(found) == 4)]
        REGISTRY.unregister(gone)
        pid = os.fork()
        if pid == 0:
            current_slot.prepare()
            signal.pause()
        try:
            found.append(live.eventually(lambda: values(merged), lambda found: found.get("kept") == 20.0))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return found

    made = {"made_1": 1.0, "made_2": 2.0}
    assert [{"gone": 5.0, "kept": 10.0, **made}, {"kept": 20.0, **made}] == in_child(pages)


def test_a_metric_that_cannot_be_rendered_is_counted(in_child: Any, caplog: pytest.LogCaptureFixture) -> None:
    """
    A single process's collectors that return no numbers, no type or no metrics cost their own lines; each scrape that misses them
    counts, and the first is logged, also of errors whose text is another each time.
    """

    class Broken:
        def collect(self) -> Iterable[Metric]:
            yield GaugeMetricFamily("broken", "B", value="many")  # type: ignore[arg-type]

    class Untyped:
        name, documentation, samples = "untyped", "U", ()

        def collect(self) -> Iterable[Any]:
            yield self

    class Nameless:
        def collect(self) -> Iterable[Any]:
            yield None

    class Changing:
        name, documentation, type = "changing", "C", "gauge"

        def __init__(self) -> None:
            self._times = 0

        @property
        def samples(self) -> list[Any]:
            self._times += 1
            raise ValueError(self._times)

        def collect(self) -> Iterable[Any]:
            yield self

    def errors(*, others: bool) -> list[str]:
        patch.install()
        registry = CollectorRegistry()
        for broken in (Broken, Untyped, Nameless, Changing):
            registry.register(broken())
        if others:
            Counter(*metrics.ERRORS, ["stage"], registry=None).labels("texts").inc()
        app = MetricsApp(registry=registry)
        pages = [Request.blank("/").get_response(app).text for _ in range(3)]
        assert not re.findall("broken|untyped|changing", "".join(pages))
        assert 4 == sum("is not on the page" in line for line in caplog.messages)
        return sorted(line for line in pages[-1].splitlines() if line.startswith(metrics.ERRORS[0]))

    counted = 'wsgi_prom_errors_total{stage="render"} 8.0'
    assert [counted] == in_child(lambda: errors(others=False))
    assert [counted, 'wsgi_prom_errors_total{stage="texts"} 1.0'] == in_child(lambda: errors(others=True))


def test_the_applications_own_pages_and_a_pushgateway_have_all_workers() -> None:
    """
    `generate_latest`, `make_wsgi_app`, `start_http_server` and `push_to_gateway` of one worker, with MultiProcessCollector, tell
    what all have counted, and `name[]` selects.
    """
    expected = {"app_orders_total": float(ORDERS), "app_shipped_total": 2.0 * ORDERS}

    def counted(text: str) -> dict[str, float]:
        found = {name: value for (name, _), value in parse_samples(text).items() if name.startswith("app_")}
        return {name: value for name, value in found.items() if not name.endswith("_created")}

    def fetch(url: str) -> str:
        with urllib.request.urlopen(url, timeout=live.START_SECONDS) as answer:
            text: str = answer.read().decode()
        return text

    gateway = live.LiveServer(
        ["prometheus-pushgateway", "--web.listen-address=127.0.0.1:0"],
        ready=(re.compile(r"Listening on.*?address=(\S+:\d+)"), 1),
    )
    with live.gunicorn("collected:app", workers=WORKERS) as server, gateway:
        for _ in range(ORDERS):
            server.get("/")
        port = server.get("/port").body.decode()
        assert expected == counted(server.get("/latest").body.decode())
        assert expected == counted(server.get("/own-metrics").body.decode())
        assert expected == counted(fetch(f"http://127.0.0.1:{port}/metrics"))
        assert {"app_shipped_total": 2.0 * ORDERS} == counted(
            fetch(f"http://127.0.0.1:{port}/metrics?name[]=app_shipped_total")
        )
        assert {"app_shipped_total": 2.0 * ORDERS} == counted(
            fetch(f"{server.metrics_url}?name[]=app_shipped_total")
        )
        assert expected == counted(server.scrape())
        address = gateway.wait_for_log(re.compile(r"Listening on.*?address=(\S+:\d+)"))[1]
        assert b"pushed" == server.get(f"/push?{address}").body
        assert expected == counted(fetch(f"http://{address}/metrics"))
