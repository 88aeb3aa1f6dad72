"""
The pages of one directory: scrapes at the same time share one collection, and one rendering of it.

1. The page of a scrape is made from a collection that began after its request had arrived, never from an older one.
2. A page that several clients read is in memory once.
3. A scrape that waits for a source of the server's figures keeps no other waiting. Scrapes share a page if the sources told
   them the same.
"""

from __future__ import annotations

import gzip
import operator
import threading
import time
from itertools import chain
from typing import TYPE_CHECKING, Final

from wsgi_prom import metrics
from wsgi_prom.exporter.exposition import Renderer
from wsgi_prom.exporter.target import Target, add_errors, own_metrics
from wsgi_prom.merge.archiving import Archiver
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.names import UNDERSCORES
from wsgi_prom.server.sources import Sources
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

    from wsgi_prom.live.figures import Figures
    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.server.workers import WorkerState

# How long a scrape waits for a source if it does not say its timeout.
SECONDS: Final = 1.0
# Scrapes that may wait for a source for longer. Each keeps a thread of the exporter, which has others to answer, and probes.
_PATIENT: Final = 2


class Page:
    """The bytes of a page, compressed too once a client has asked for that. For any number of threads."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._compressed: bytes | None = None

    @property
    def compressed(self) -> bytes:
        # No lock: at worst two threads compress the same page.
        if self._compressed is None:
            # A page of 870 kB (1,000 label sets of a counter and a histogram) at levels 1, 3 and 6: 105, 95 and 83 kB in 4, 6
            # and 14 ms, and 6 ms is more than the rest of a scrape. Level 9, the default, takes twice as long as 6.
            self._compressed = gzip.compress(self.content, compresslevel=3, mtime=0)
        return self._compressed


class Pages:
    """
    The pages of the directory *path*, or of this process's *registry* if that is None. For any number of threads.

    With *slot* they show nothing but what the slot of that number has.
    """

    def __init__(
        self,
        path: Path | None,
        registry: CollectorRegistry,
        target: Target | None = None,
        slot: int | None = None,
    ) -> None:
        self.path = path
        self._registry = registry
        self._target = target or Target()
        self._collector = Collector(path, slot)
        self.sources = Sources(
            hooked=bool(self._target.server),
            concurrency=self._target.concurrency,
            # Figures that no slot has are of the whole server, and are read in threads, which a worker with greenlets has not.
            sockets=self._target.sockets if slot is None else (),
            stats=self._target.stats if slot is None else "",
            heartbeats=slot is None and self._target.server == "gunicorn",
            daemons=slot is None and self._target.server == "uWSGI",
        )
        # By the escaping of names.
        self._renderers: dict[str, Renderer] = {}
        # How often a custom collector yielded what has no name.
        self._nameless = 0
        self._archiver = None if path is None or slot is not None else Archiver(path)
        self._lock = threading.Lock()
        self._patient = threading.Semaphore(_PATIENT)
        self._began = float("-inf")
        # The slots as of the last collection, and the metrics of the workers in them.
        self._slots: list[Reading] = []
        self._workers: list[Metric] = []
        self._states: list[WorkerState] = []
        self._wall_clock = 0.0
        # Whole pages of that collection, in text and in OpenMetrics (True), by the escaping of names; each with the metrics of
        # the server's other sources.
        self._cache: dict[tuple[bool, str], tuple[Page, list[list[Metric]]]] = {}

    def page(
        self,
        arrival: float,
        *,
        openmetrics: bool = False,
        escaping: str = UNDERSCORES,
        names: Collection[str] = (),
        deadline: float | None = None,
        more_metrics: Callable[[], Iterable[Metric]] = tuple,
    ) -> Page:
        """
        Return the page for a request that arrived at *arrival* (time.monotonic), with the samples that *names* select.

        Sources that have not answered by *deadline*, a second from now by default, are left out. Two scrapes at a time can wait
        for longer than that. *more_metrics* returns metrics of the process that serves the page, as of now. Raises
        DirectoryError if the directory cannot be read at all.
        """
        of_sources = self._collect_and_ask(arrival, deadline)
        with self._lock:
            if names:
                # Not kept: there are too many filters.
                return self._rendered(of_sources, more_metrics, openmetrics, escaping, names)
            page, sources = self._cache.get((openmetrics, escaping), (None, []))
            if page is None or not all(map(operator.is_, sources, of_sources)):
                page = self._rendered(of_sources, more_metrics, openmetrics, escaping)
                self._cache[openmetrics, escaping] = page, of_sources
            return page

    def figures(self, arrival: float) -> Figures:
        """
        Return the figures that a person looks at, of the collection that a scrape at *arrival* (time.monotonic) would get.

        Raises DirectoryError as `page`.
        """
        from wsgi_prom.live.figures import figures  # noqa: PLC0415 - not needed where nobody looks

        of_sources = self._collect_and_ask(arrival, None)
        with self._lock:
            others: list[Metric] = []
            if self.path is not None:
                info = [self._target.info(self.path), *self._target.server_info()]
                others = [
                    *own_metrics(self._collector.report, *info),
                    *self._workers,
                    *chain.from_iterable(of_sources),
                ]
            # As of the last collection, which may be a later one by now.
            return figures(self._began, self._wall_clock, self._families, others, self._states)

    def _collect_and_ask(self, arrival: float, deadline: float | None) -> list[list[Metric]]:
        """Collect unless that was begun since *arrival*, and return what each of the server's other sources tells by *deadline*."""
        # Scrapes that arrive during a collection wait here. The first of them collects again, for all of them.
        with self._lock:
            if self._began <= arrival:
                self._collect()
            slots, began = self._slots, self._began
        if self.path is None:
            return []
        # Without the lock, for rule 3.
        soon = time.monotonic() + SECONDS
        if deadline is None or deadline <= soon or not self._patient.acquire(blocking=False):
            return self.sources.families(slots, arrival, min(deadline or soon, soon), began)
        try:
            return self.sources.families(slots, arrival, deadline, began)
        finally:
            self._patient.release()

    def _collect(self) -> None:
        began, wall_clock = time.monotonic(), time.time()
        if self._archiver is not None:
            self._archiver.archive_ended()
        self._families = self._collector.collect()
        _warn_of_names(self._families.taken())
        if self.path is not None:
            self._slots = self._collector.slots
            self._workers = self.sources.workers(self._slots)
            self._states = self.sources.worker_states(self._slots)
        self._cache = {}
        self._wall_clock = wall_clock
        self._began = began

    def _rendered(
        self,
        of_sources: list[list[Metric]],
        more_metrics: Callable[[], Iterable[Metric]],
        openmetrics: bool,
        escaping: str,
        names: Collection[str] = (),
    ) -> Page:
        failed = self._nameless + sum(renderer.failed for renderer in self._renderers.values())
        own = add_errors(self._families, "render", failed)
        registry: Iterable[Metric] = ()
        if self.path is None:
            registry = self._named(self._registry.collect())
            _warn_of_names(self._families.taken(registry))
        else:
            own += own_metrics(
                self._collector.report,
                self._target.info(self.path),
                *self._target.server_info(),
                *self._workers,
                *chain.from_iterable(of_sources),
                *more_metrics(),
                left_out=self._families.conflicts_on(escaping),
            )
        renderer = self._renderers.setdefault(escaping, Renderer(escaping))
        page = renderer.render(self._families, own, registry=registry, openmetrics=openmetrics, names=names)
        return Page(page.encode())

    def _named(self, registry: Iterable[Metric]) -> list[Metric]:
        """Return the metrics in *registry*, and count what a custom collector has yielded that is none, such as None."""
        named = []
        for item in registry:
            if isinstance(getattr(item, "name", None), str):
                named.append(item)
            else:
                self._nameless += 1
                warn_once(f"a {type(item).__name__} of a custom collector is not on the page: it has no name")
        return named


def _warn_of_names(taken: list[str]) -> None:
    if taken:
        warn_once(f"{metrics.TAKEN.format(', '.join(taken))}. {metrics.TAKEN_REMEDY}")
