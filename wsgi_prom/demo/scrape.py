"""
Scrapes during the run: of wsgi_prom's exporter, each compared with the one before, and of the naive endpoint.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from wsgi_prom import metrics
from wsgi_prom.demo.load import NAIVE, Row, send
from wsgi_prom.demo.server import DemoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from wsgi_prom.demo.load import Tally
    from wsgi_prom.demo.server import Server

Labels = frozenset[tuple[str, str]]
Series = tuple[str, Labels]

_SCRAPE_SECONDS: Final = 10.0

_RISING: Final = frozenset({"counter", "histogram", "summary"})
# Figures of one process each, which start anew with it: that of a worker's CPU time is right to go back.
_OF_A_PROCESS: Final = ("process_", "python_", "uwsgi_")


class Page(NamedTuple):
    """A scrape: all *samples*, and the names of those that never may go back."""

    samples: dict[Series, float]
    rising: frozenset[str]

    def by_row(self) -> dict[Row, float]:
        """Return the counts of requests."""
        name = f"{metrics.REQUESTS[0]}_total"
        found = {}
        for (sample, labels), value in self.samples.items():
            if sample == name:
                values = dict(labels)
                found[Row(values["method"], values["route"], values["status"])] = value
        return found

    def total(self) -> float:
        return sum(self.by_row().values())

    def in_progress(self) -> float:
        return self.samples.get((metrics.IN_PROGRESS[0], frozenset()), 0.0)

    def durations(self) -> dict[tuple[str, str], dict[float, float]]:
        """Return the cumulative buckets of the durations by method and route."""
        found: dict[tuple[str, str], dict[float, float]] = {}
        for (sample, labels), value in self.samples.items():
            if sample == f"{metrics.DURATION[0]}_bucket":
                values = dict(labels)
                found.setdefault((values["method"], values["route"]), {})[float(values["le"])] = value
        return found


class Moment(NamedTuple):
    """What was seen at once: the workers, and the figures of a scrape that was taken just after."""

    workers: frozenset[int]
    total: float
    in_progress: float


def parse(text: str) -> Page:
    """Parse a page of the text format. Raises ValueError for one that Prometheus would not take whole."""
    samples: dict[Series, float] = {}
    rising = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = sample.name, frozenset(sample.labels.items())
            if series in samples:
                raise ValueError(f"{sample.name}{sample.labels} is there twice")
            samples[series] = sample.value
            if family.type in _RISING and not sample.name.startswith(_OF_A_PROCESS):
                rising.add(sample.name)
    return Page(samples, frozenset(rising))


def backward(before: Page, after: Page) -> list[str]:
    """Return what went back from one page to the next: a series that fell, and one that is no longer there."""
    return [
        f"{name}{dict(labels)} went back from {value} to {after.samples.get((name, labels), 'nothing')}"
        for (name, labels), value in before.samples.items()
        if name in before.rising and after.samples.get((name, labels), -1.0) < value
    ]


class Scraper:
    """Takes pages of *server*'s metrics, and remembers what was wrong with them. For one thread at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.pages = 0
        self.problems: list[str] = []
        self.moments: list[Moment] = []
        self.last = Page({}, frozenset())

    def scrape(self) -> None:
        workers = self._server.workers()
        page = self._get(self._server.metrics_url)
        self.pages += 1
        self.problems += backward(self.last, page)
        self.last = page
        self.moments.append(Moment(workers, page.total(), page.in_progress()))

    @staticmethod
    def _get(url: str) -> Page:
        # Not urllib.request, which would take this to the proxy that the environment names.
        parts = urlsplit(url)
        try:
            with closing(HTTPConnection(parts.netloc, timeout=_SCRAPE_SECONDS)) as connection:
                connection.request("GET", parts.path)
                answer = connection.getresponse()
                text = answer.read().decode()
            if answer.status != 200:
                raise DemoError(f"{url} answers {answer.status}: {text[:200]}")
            return parse(text)
        except (OSError, HTTPException) as error:
            raise DemoError(f"{url}: {error}") from error
        except ValueError as error:
            raise DemoError(f"{url} is no page of metrics: {error}") from error


class NaiveScraper:
    """Takes pages of the naive endpoint: each of whichever worker took the request. Thread safe."""

    def __init__(self, address: str, tally: Tally) -> None:
        self._address = address
        self._tally = tally
        self.pages: list[Page] = []

    def scrape(self) -> None:
        body = send(self._address, NAIVE, self._tally)
        if body is not None:
            self.pages.append(parse(body.decode()))


class Repeated:
    """Call *function* every *seconds* in a thread of its own, for a `with` block, which raises what it raised."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1, "repeated")
        self._call: Future[None]

    def __enter__(self) -> None:
        self._call = self._pool.submit(self._run)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()
        if kind is None:
            self._call.result()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            self._function()
            due = max(due + self._seconds, time.monotonic())
            self._stopped.wait(due - time.monotonic())
