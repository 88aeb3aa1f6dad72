"""Many scrapes at once: they share a collection, and none is answered from one that is older than its request."""

from __future__ import annotations

import gzip
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn
from wsgiref.util import FileWrapper

import live
import pytest
import servers
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.exporter import page_cache
from wsgi_prom.exporter.app import ExporterApp
from wsgi_prom.exporter.page_cache import Pages
from wsgi_prom.exporter.responses import ARRIVAL
from wsgi_prom.exporter.scrapes import Scrapes
from wsgi_prom.merge.collector import Collector
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wsgi_prom.merge.families import Families


class Slow(CollectorRegistry):
    """Collections that take as long as the test lets them, and are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.collections = 0
        self.count = 0
        self.let = threading.Semaphore(0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.collections += 1
        count = self.count
        assert self.let.acquire(timeout=60)
        yield CounterMetricFamily("counted", "What was counted when the collection began.", count)


class Counting(Collector):
    collections = 0

    def collect(self) -> Families:
        self.collections += 1
        return super().collect()


def counted(content: bytes) -> float:
    return live.parse_samples(content.decode())["counted_total", frozenset()]


def test_scrapes_during_a_collection_share_the_next_one() -> None:
    """One collection runs, 50 scrapes arrive: one more is made for all of them, and all see what is in it."""
    registry = Slow()
    pages = Pages(None, registry)

    def scrape() -> tuple[float, float]:
        least = registry.count
        return least, counted(pages.page(time.monotonic()).content)

    with ThreadPoolExecutor(51) as pool:
        first = pool.submit(scrape)
        assert live.eventually(lambda: registry.collections, lambda found: found == 1) == 1
        registry.count = 7
        rest = [pool.submit(scrape) for _ in range(50)]
        # All have arrived; none may have what the first is collecting.
        assert (
            live.eventually(lambda: sum(future.running() for future in rest), lambda found: found == 50) == 50
        )
        time.sleep(0.2)
        for _ in range(3):
            registry.let.release()
        seen = [future.result(timeout=60) for future in rest]
    assert first.result() == (0, 0)
    assert {(7, 7)} == set(seen)
    assert registry.collections <= 3


def test_no_scrape_is_older_than_its_request() -> None:
    """Whatever the order in which they come, each scrape sees all that was counted before it."""
    registry = Slow()
    for _ in range(10_000):
        registry.let.release()
    pages = Pages(None, registry)
    problems = []

    def scrape(number: int) -> None:
        for _ in range(50):
            registry.count += 1
            least = registry.count
            found = counted(pages.page(time.monotonic(), names=["counted"] if number % 2 else []).content)
            if found < least:
                problems.append((least, found))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(scrape, range(8)))
    assert [] == problems


def test_a_page_is_rendered_and_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes that came before the collection began get the very same bytes, for each format."""
    registry = Slow()
    for _ in range(100):
        registry.let.release()
    collector = Counting(None)
    monkeypatch.setattr(page_cache, "Collector", lambda *_: collector)
    pages = Pages(None, registry)
    arrival = time.monotonic()
    for openmetrics in (False, True):
        found = [pages.page(arrival, openmetrics=openmetrics) for _ in range(3)]
        assert found[0].content is found[1].content is found[2].content
        assert found[0].compressed is found[1].compressed is found[2].compressed
    assert gzip.decompress(pages.page(arrival).compressed) == pages.page(arrival).content
    assert collector.collections == 1
    before = pages.page(arrival)
    assert pages.page(time.monotonic()).content is not before.content
    assert collector.collections == 2


def test_a_file_of_a_page_shares_its_bytes() -> None:
    """io.BytesIO, of which the exporter sends 1,000 for one page, keeps the object that it was made of."""
    content = bytes(100_000)
    assert io.BytesIO(content).getvalue() is content


def ask(app: MetricsApp, path: str, arrival: float) -> int:
    environ = {ARRIVAL: arrival, "wsgi.file_wrapper": FileWrapper}
    return Request.blank(path, environ=environ).get_response(app).status_code


def test_filtered_scrapes_that_waited_are_refused() -> None:
    """A scrape with name[] that came seconds ago is told to come again, without a collection; a whole page is made."""
    registry = Slow()
    registry.let.release()
    app = MetricsApp(registry=registry)
    earlier = time.monotonic() - 5
    assert 503 == ask(app, "/metrics?name[]=counted", earlier)
    assert 0 == registry.collections
    assert 200 == ask(app, "/metrics", earlier)


def test_readiness_collects_nothing(tmp_path: Path) -> None:
    """A probe of readiness is answered without a collection, from whether the directory can be read."""
    registry = Slow()
    assert 200 == MetricsApp(registry=registry).ready().status_code
    assert 0 == registry.collections
    assert 200 == MetricsApp(tmp_path).ready().status_code
    assert 503 == MetricsApp(tmp_path / "gone").ready().status_code


def fail() -> NoReturn:
    raise MemoryError


def scraped(exporter: ExporterApp, path: str = "/metrics", **options: Any) -> int:
    return Request.blank(path, **options).get_response(exporter).status_code


def test_scrapes_are_counted_by_status_code(tmp_path: Path) -> None:
    """Those that are answered in whatever way, and not other paths; the page counts those before it, and is in flight."""
    directory.prepare(tmp_path / "shared")
    (tmp_path / "token").write_text("right")
    (tmp_path / "token").chmod(0o600)
    exporter = ExporterApp(
        MetricsApp(tmp_path / "shared", settings=Settings(token_file=str(tmp_path / "token")))
    )
    right = {"headers": {"Authorization": "Bearer right"}}
    codes = [scraped(exporter, **options) for options in (right, right, {}, {**right, "method": "POST"})]
    codes += [
        scraped(exporter, "/nowhere"),
        scraped(exporter, "/-/healthy"),
        scraped(exporter, "/-/ready", **right),
    ]
    samples = live.parse_samples(Request.blank("/metrics", **right).get_response(exporter).text)
    assert [200, 200, 401, 405, 404, 200, 200] == codes
    found = live.labelled(samples, "wsgi_prom_scrapes_total")
    assert {"200": 2, "401": 1, "405": 1, "500": 0, "503": 0} == {
        dict(labels)["code"]: count for labels, count in found.items()
    }
    assert 1 == samples["wsgi_prom_scrapes_in_flight", frozenset()]


def test_a_scrape_that_fails_is_counted() -> None:
    """One for which there is no memory is the server's 500, and is no longer in flight."""
    scrapes = Scrapes()
    with pytest.raises(MemoryError):
        scrapes.answer(fail)
    counted, in_flight = (
        {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in scrapes.families()
    )
    assert (1, {(): 0}) == (counted["500",], in_flight)


def test_concurrent_scrapes_of_a_real_server() -> None:
    """8 clients send a request and then scrape, again and again: each sees at least what was answered before."""
    with live.gunicorn(workers=2) as server:
        url, metrics = server.url, server.metrics_url
        answered = [0] * 8
        problems = []

        def client(number: int) -> None:
            for _ in range(25):
                live.request(url + "/")
                answered[number] += 1
                least = sum(answered)
                found = servers.requests_counted(live.parse_samples(live.request(metrics).body.decode()))
                if found[("/", "200")] < least:
                    problems.append((least, found))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))
        assert [] == problems
        assert {("/", "200"): 200} == servers.requests_counted(server.samples())
