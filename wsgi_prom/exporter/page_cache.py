"""
The pages of one directory: scrapes at the same time share one collection, and one rendering of it.

1. The page of a scrape is made from a collection that began after its request had arrived, never from an older one.
2. A page that several clients read is in memory once.
"""

from __future__ import annotations

import gzip
import threading
import time
from typing import TYPE_CHECKING

from wsgi_prom.exporter.exposition import Renderer
from wsgi_prom.exporter.target import Target, own_metrics
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.folding import Folding
from wsgi_prom.server.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from prometheus_client.registry import CollectorRegistry


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
    """The pages of the directory *path*, or of this process's *registry* if that is None. For any number of threads."""

    def __init__(self, path: Path | None, registry: CollectorRegistry, target: Target | None = None) -> None:
        self.path = path
        self._registry = registry
        self._target = target or Target()
        self._collector = Collector(path)
        self.sources = Sources(
            hooked=bool(self._target.server),
            concurrency=self._target.concurrency,
            sockets=self._target.sockets,
            stats=self._target.stats,
        )
        self._renderer = Renderer()
        self._folding = None if path is None else Folding(path)
        self._lock = threading.Lock()
        self._began = float("-inf")
        # Whole pages of the last collection, in text and in OpenMetrics (True).
        self._cache: dict[bool, Page] = {}

    def page(self, arrival: float, *, openmetrics: bool = False, names: Collection[str] = ()) -> Page:
        """
        Return the page for a request that arrived at *arrival* (time.monotonic), with the samples that *names* select.

        Raises DirectoryError if the directory cannot be read at all.
        """
        # Scrapes that arrive during a collection wait here. The first of them collects again, for all of them.
        with self._lock:
            if self._began <= arrival:
                began = time.monotonic()
                if self._folding is not None:
                    self._folding.fold()
                self._families = self._collector.collect()
                self._cache = {}
                self._began = began
            if names:
                return self._rendered(openmetrics, names)  # not kept: there are too many filters
            if openmetrics not in self._cache:
                self._cache[openmetrics] = self._rendered(openmetrics)
            return self._cache[openmetrics]

    def _rendered(self, openmetrics: bool, names: Collection[str] = ()) -> Page:
        if self.path is None:
            own = list(self._registry.collect())
        else:
            own = own_metrics(
                self._collector.report,
                self._target.info(self.path),
                *self._target.server_info(),
                *self.sources.families(self._collector.slots),
            )
        return Page(self._renderer.render(self._families, own, openmetrics=openmetrics, names=names).encode())
