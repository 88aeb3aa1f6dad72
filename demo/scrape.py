"""Scrapes during the run: of wsgi_prom's exporter, each compared with the one before, and of the naive endpoint."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from demo.load import NAIVE, Result, Row, exchange, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.server import Server

_SCRAPE_SECONDS: Final = 0.2

_RISING: Final = frozenset({"counter", "histogram", "summary"})
# Figures of one process, which start anew with it: a worker's CPU time may go back.
_OF_A_PROCESS: Final = ("process_", "python_", "uwsgi_")


class Page(NamedTuple):
    """A scrape: all *samples*, and the names of those that never may go back."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    rising: frozenset[str]

    def named(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each sample called *name*."""
        return [(dict(labels), value) for (found, labels), value in self.samples.items() if found == name]

    def by_row(self) -> dict[Row, float]:
        """Return the counts of requests."""
        return {
            Row(labels["method"], labels["route"], labels["status"]): value
            for labels, value in self.named("http_requests_total")
        }

    def total(self) -> float:
        return sum(self.by_row().values())

    def in_progress(self) -> float:
        return sum(value for _, value in self.named("http_requests_in_progress"))

    def durations(self) -> dict[tuple[str, str], dict[float, float]]:
        """Return the cumulative buckets of the durations by route and method."""
        found: dict[tuple[str, str], dict[float, float]] = {}
        for labels, value in self.named("http_request_duration_seconds_bucket"):
            found.setdefault((labels["route"], labels["method"]), {})[float(labels["le"])] = value
        return found


class Moment(NamedTuple):
    """The pids of the workers, and the figures of a scrape just after."""

    workers: frozenset[int]
    total: float
    in_progress: float


def parse(text: str) -> Page:
    samples = {}
    rising = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
            if family.type in _RISING and not sample.name.startswith(_OF_A_PROCESS):
                rising.add(sample.name)
    return Page(samples, frozenset(rising))


def backward(before: Page, after: Page) -> list[str]:
    """Return the series of counters that fell from one page to the next, or are no longer there."""
    return [
        f"{name}{dict(labels)} went back from {value} to {after.samples.get((name, labels), 'nothing')}"
        for (name, labels), value in before.samples.items()
        if name in before.rising and after.samples.get((name, labels), -1.0) < value
    ]


class Scraper:
    """The pages of *server*, and what was seen in them. `scrape` is for one thread at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.moments: list[Moment] = []
        self.went_back: list[str] = []
        self.last = Page({}, frozenset())
        self.naive: list[Page] = []
        # The naive endpoint is a route of the application, so that its scrapes are requests too.
        self.results: list[Result] = []

    def scrape(self) -> None:
        workers = frozenset(self._server.workers())
        url = self._server.metrics_url
        status, body = exchange(url, "GET", {})
        if status != 200:
            raise OSError(f"{url}: status {status}: {body[:200]!r}")
        page = parse(body.decode())
        self.went_back += backward(self.last, page)
        self.last = page
        self.moments.append(Moment(workers, page.total(), page.in_progress()))

    def scrape_naive(self) -> None:
        """Scrape the naive endpoint of the worker that happens to take the request. Thread safe."""
        result = send(self._server.url, NAIVE)
        self.results.append(result)
        if not result.error:
            self.naive.append(parse(result.body.decode()))


@contextmanager
def repeated(function: Callable[[], None]) -> Iterator[None]:
    """Call *function* every 0.2 s in a thread during a `with` block, which raises what it raised."""
    stopped = threading.Event()

    def repeat() -> None:
        while not stopped.wait(_SCRAPE_SECONDS):
            function()

    with ThreadPoolExecutor(1, "scrape") as pool:
        calls = pool.submit(repeat)
        try:
            yield
        finally:
            stopped.set()
    calls.result()
