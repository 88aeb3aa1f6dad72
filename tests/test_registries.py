"""
Metrics of any registry are on the page once, however they were registered; and the application's own ways to serve or push
the merged page have all of it.
"""

from __future__ import annotations

import re
import urllib.request
from typing import TYPE_CHECKING, Any

import live
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from samples import parse_samples

from wsgi_prom.client import patch
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORKERS = 3
ORDERS = 12


def page(shared: Path, record: Callable[[], object]) -> dict[str, float]:
    """Return the page of this process, where *record* has made metrics and recorded; a series that is there twice is an error."""
    patch.install()
    current_slot.attach(shared)
    current_slot.renew()
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
