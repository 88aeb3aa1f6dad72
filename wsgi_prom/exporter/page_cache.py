"""
The pages of one directory: many scrapes at once share one collection, and one rendering of it.
"""

# Rule 1: a scrape is answered from a collection that began after its request had arrived, never from an older one.
# Rule 2: a page that several clients read is there once.
# Rule 3: the lock is held to collect and to render, which share state, and not to compress.

from __future__ import annotations

import gzip
import io
import threading
import time
from typing import TYPE_CHECKING, Final

from wsgi_prom.exporter.exposition import ALL, Names, Renderer
from wsgi_prom.exporter.introspection import own_metrics
from wsgi_prom.exporter.target import Target
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.folding import Folding

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

# In environ, by the exporter's own server: time.monotonic() when the whole request was here.
ARRIVAL: Final = "wsgi_prom.arrival"


class Page:
    """The bytes of a page, and those of its compressed form once somebody asked for it. For any number of threads."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._lock = threading.Lock()
        self._compressed: bytes | None = None

    @property
    def compressed(self) -> bytes:
        with self._lock:
            if self._compressed is None:
                # A page of 870 kB (1,000 label sets of a counter and a histogram) in levels 1, 3 and 6: 105, 95 and
                # 83 kB in 4, 6 and 14 ms, which is more than the rest of a scrape. Level 9, the default, takes twice
                # that of 6.
                self._compressed = gzip.compress(self.content, compresslevel=3, mtime=0)
            return self._compressed


class Pages:
    """
    The pages of *path*, or of this process's own metrics if that is None. For any number of threads.
    """

    def __init__(self, path: Path | None, registry: CollectorRegistry, target: Target | None = None) -> None:
        self.path = path
        self._registry = registry
        self._target = target or Target()
        self._collector = Collector(path)
        self._renderer = Renderer()
        self._folding = None if path is None else Folding(path)
        self._lock = threading.Lock()
        self._began = float("-inf")
        # By format: whether it is OpenMetrics.
        self._cache: dict[bool, Page] = {}

    def page(self, arrival: float, *, openmetrics: bool = False, names: Names = ALL) -> Page:
        """
        Return the page for a request that came at *arrival* (time.monotonic).

        Raises DirectoryError if the directory cannot be read at all.
        """
        # Those that come during a collection wait here. The first of them collects again, for all of them.
        with self._lock:
            if self._began <= arrival:
                began = time.monotonic()
                if self._folding is not None:
                    self._folding.fold()
                self._families = self._collector.collect()
                self._cache = {}
                self._began = began
            if names:
                return self._rendered(openmetrics, names)  # not kept: its filter may be any
            found = self._cache.get(openmetrics)
            if found is None:
                found = self._cache[openmetrics] = self._rendered(openmetrics)
            return found

    def _rendered(self, openmetrics: bool, names: Names = ALL) -> Page:
        own: Iterable[Metric] = (
            self._registry.collect()
            if self.path is None
            else own_metrics(self._collector.report, self._target.info(self.path))
        )
        return Page(self._renderer.render(self._families, own, openmetrics=openmetrics, names=names).encode())


class PageFile(io.BytesIO):
    """The bytes of a page as the file that waitress sends from, which shares them (BytesIO copies when written to)."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content
