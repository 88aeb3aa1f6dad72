"""Sources of the server's figures that fail, are slow or never answer, and the deadlines of scrapes."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import live
import pytest
import servers
from prometheus_client.metrics_core import GaugeMetricFamily
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.exporter.app import ExporterApp
from wsgi_prom.exporter.target import Target
from wsgi_prom.server.source import LONGEST, Source
from wsgi_prom.server.sources import Sources
from wsgi_prom.settings import Settings
from wsgi_prom.store import directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

# Longer than any scrape waits: only a failing test waits to the end.
SECONDS = 60.0
TIMEOUT = "X-Prometheus-Scrape-Timeout-Seconds"


class Slow:
    """What a source says: how often it was asked, once it is let; until then it hangs."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = threading.Event()
        self.error: Exception | None = None

    def read(self) -> list[Metric]:
        self.asked += 1
        count = self.asked
        assert self.let.wait(SECONDS)
        if self.error is not None:
            raise self.error
        return [GaugeMetricFamily("asked", "How often.", count)]


def ask(source: Source, slow: Slow, seconds: float, arrival: float | None = None) -> list[float]:
    """Return the values that a scrape gets which waits that long."""
    now = time.monotonic()
    found = source.families(slow.read, now if arrival is None else arrival, now + seconds)
    return [sample.value for family in found for sample in family.samples]


def test_a_source_that_never_answers_costs_its_own_metrics_and_one_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Scrapes get what is shown without it, one thread hangs for all of them, and one warning says so until it answers."""
    slow, source = Slow(), Source("the test", [GaugeMetricFamily("asked", "How often.", -1)])
    threads = set(threading.enumerate())
    with caplog.at_level(logging.WARNING, "wsgi_prom"):
        assert [[-1]] * 20 == [ask(source, slow, 0.1) for _ in range(20)]
        assert (1, 1) == (slow.asked, len(set(threading.enumerate()) - threads))
        assert ["the test: no answer within 0.1 s, no metrics of it"] == caplog.messages
        slow.let.set()
        live.eventually(lambda: works_within(source, slow, 0.1), bool)
        slow.let.clear()
        assert [-1] == ask(source, slow, 0.1)
    slow.let.set()
    assert 2 == len(caplog.messages)


def works_within(source: Source, slow: Slow, seconds: float) -> bool:
    return ask(source, slow, seconds) == [slow.asked]


def test_a_scrape_with_time_for_a_slow_source_does_not_have_it_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where one client waits for long enough and another does not, by turns, one warning says so; one more if neither does."""
    slow, source = Slow(), Source("the test")
    with caplog.at_level(logging.WARNING, "wsgi_prom"), ThreadPoolExecutor() as pool:
        for turn in range(3):
            slow.let.clear()
            assert [] == ask(source, slow, 0.1)
            patient = pool.submit(ask, source, slow, SECONDS, float("-inf"))
            assert 1 == len(caplog.messages)
            time.sleep(0.1)  # the reading takes clearly longer than the hasty scrape waited
            slow.let.set()
            assert [turn + 1] == patient.result()
        slow.let.clear()
        assert [] == ask(source, slow, 0.2)
        slow.let.set()
    assert [
        f"the test: no answer within {time} s, no metrics of it" for time in (0.1, 0.2)
    ] == caplog.messages


def test_a_source_that_has_hung_for_longer_than_any_scrape_is_not_waited_for() -> None:
    """Later scrapes go on without it at once."""
    slow, source = Slow(), Source("the test")
    now = time.monotonic()
    source.begin(slow.read, now)
    # As if it had begun that much earlier.
    source.begin(slow.read, now).began -= LONGEST
    with ThreadPoolExecutor() as pool:
        assert [] == pool.submit(ask, source, slow, 10 * SECONDS).result(SECONDS)
    slow.let.set()


def test_a_scrape_that_gives_up_early_spoils_no_other() -> None:
    """Two scrapes wait for one reading: the one with less time goes without it, the other gets it."""
    slow, source = Slow(), Source("the test", [GaugeMetricFamily("asked", "How often.", -1)])
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(ask, source, slow, SECONDS)
        live.eventually(lambda: slow.asked, lambda asked: asked == 1)
        assert [-1] == ask(source, slow, 0.001)
        slow.let.set()
        assert [1] == patient.result()


def test_no_scrape_gets_what_was_read_before_it_came() -> None:
    """Scrapes that come during a reading wait for the next one, and share it. So they do for one of slots that are older."""
    slow, source = Slow(), Source("the test")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, source, slow, SECONDS)
        live.eventually(lambda: slow.asked, lambda asked: asked == 1)
        arrival = time.monotonic()
        later = [pool.submit(ask, source, slow, SECONDS, arrival) for _ in range(3)]
        live.eventually(lambda: [future.running() for future in later], all)
        slow.let.set()
        assert ([1], [[2]] * 3) == (first.result(), [future.result() for future in later])
    now = time.monotonic()
    old = source.families(slow.read, now, now + SECONDS, now)
    later_scrape = source.families(slow.read, now + 1e-6, now + SECONDS)
    assert [3, 4] == [family.samples[0].value for family in (*old, *later_scrape)]


def test_a_source_that_fails_is_said_once_until_it_works(caplog: pytest.LogCaptureFixture) -> None:
    """Each time that it begins to fail there is one warning, with the error."""
    slow, source = Slow(), Source("the test")
    slow.let.set()
    with caplog.at_level(logging.WARNING, "wsgi_prom"):
        for error in (ValueError("odd"), ValueError("odd"), None, OSError(5, "gone")):
            slow.error = error
            ask(source, slow, SECONDS)
    assert [
        "the test cannot be read (ValueError: odd): no metrics of it",
        "the test cannot be read (OSError: [Errno 5] gone): no metrics of it",
    ] == caplog.messages


class StatsServer:
    """A stats server of uWSGI that accepts connections, and answers those that it has when it is let."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.listener.getsockname())
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                self.connections.append(self.listener.accept()[0])

    def answer(self) -> None:
        while self.connections:
            with self.connections.pop() as connection:
                connection.sendall(json.dumps({"workers": []}).encode())


@pytest.fixture
def stats() -> Iterator[StatsServer]:
    server = StatsServer()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    for connection in server.connections:
        connection.close()


@pytest.fixture
def exporter(stats: StatsServer, shared: Path) -> ExporterApp:
    """An exporter of a uWSGI whose stats server is *stats*."""
    directory.prepare(shared)
    target = Target("app", "uWSGI", "2.0.31", "", 1, (), stats.address)
    return ExporterApp(MetricsApp(shared, settings=Settings(), target=target))


def scrape(exporter: ExporterApp, timeout: str | None = None) -> live.Samples:
    headers = {} if timeout is None else {TIMEOUT: timeout}
    answer = Request.blank("/metrics", headers=headers).get_response(exporter)
    assert 200 == answer.status_code
    return live.parse_samples(answer.text)


@pytest.mark.parametrize("timeout", [None, "0.1", "1", "", "0", "-1", "nan", "-inf", "none", "1e-400"])
def test_a_stats_server_that_accepts_and_never_answers_costs_its_own_metrics(
    exporter: ExporterApp, timeout: str | None
) -> None:
    """The page is there before the scrape is over, with all else, and says that it did not answer."""
    found = scrape(exporter, timeout)
    assert 0 == found["uwsgi_up", frozenset()]
    assert {"wsgi_workers", "wsgi_prom_build_info", "wsgi_server_info"} <= {name for name, _ in found}


@pytest.mark.parametrize("timeout", ["10", "15", "inf", "1e9"])
def test_scrapes_at_the_same_time_have_their_own_timeouts(
    exporter: ExporterApp, stats: StatsServer, timeout: str
) -> None:
    """While a scrape with time waits for a slow source, another gets its page without, and the first gets the figures."""
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(scrape, exporter, timeout)
        live.eventually(lambda: stats.connections, bool)
        hasty = scrape(exporter, "0.1")
        assert (0, 2) == (hasty["uwsgi_up", frozenset()], hasty["wsgi_prom_scrapes_in_flight", frozenset()])
        stats.answer()
        assert 1 == patient.result()["uwsgi_up", frozenset()]


def test_a_page_counts_the_scrapes_that_were_answered_while_it_waited(
    exporter: ExporterApp, stats: StatsServer
) -> None:
    """The exporter's own counters on a page are those of the moment when it is made."""
    with ThreadPoolExecutor() as pool:
        patient = pool.submit(scrape, exporter, "10")
        live.eventually(lambda: stats.connections, bool)
        for _ in range(3):
            scrape(exporter, "0.1")
        stats.answer()
        assert 3 == servers.value(patient.result(), "wsgi_prom_scrapes_total", code="200")


def test_two_scrapes_at_a_time_wait_for_long(exporter: ExporterApp, stats: StatsServer) -> None:
    """While two wait until their timeouts, a third with as much time goes without the figures: threads are left for others."""
    with ThreadPoolExecutor() as pool:
        patient = [pool.submit(scrape, exporter, "10") for _ in range(2)]
        live.eventually(lambda: stats.connections, bool)
        live.eventually(
            lambda: scrape(exporter)["wsgi_prom_scrapes_in_flight", frozenset()], lambda now: now == 3
        )
        assert 0 == scrape(exporter, "10")["uwsgi_up", frozenset()]
        assert [False, False] == [future.done() for future in patient]
        stats.answer()
        # Of two that did not come at the same time, the second gets another reading.
        live.eventually(lambda: stats.answer() or all(future.done() for future in patient), bool)
        assert [1, 1] == [future.result()["uwsgi_up", frozenset()] for future in patient]


def test_slots_that_tell_nothing_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where what the slots say of the workers cannot be used, scrape after scrape, each consequence is logged once."""
    sources = Sources(hooked=True, concurrency=1, sockets=(), stats="")
    for _ in range(3):
        assert [] == sources.workers([object()])  # type: ignore[list-item]
        assert [] == sources.worker_states([object()])  # type: ignore[list-item]
    assert ["no metrics of the workers", "no states of the workers"] == [
        message.partition(" (")[0] for message in caplog.messages
    ]
