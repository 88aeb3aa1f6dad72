"""
The pages of one directory: many scrapes at once share one collection, and one rendering of it.
"""

# Rule 1: a scrape is answered from a collection that began after its request had arrived, never from an older one.
# Rule 2: a page that several clients read is there once.

from __future__ import annotations

import gzip
import io
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom.exporter.exposition import ALL, Names, render
from wsgi_prom.exporter.introspection import own_metrics
from wsgi_prom.storage.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

# In environ, by the exporter's own server: time.monotonic() when the whole request was here.
ARRIVAL: Final = "wsgi_prom.arrival"

# Clients that read slowly keep the page that they began with. Beyond this many newer bytes (or this many pages, if
# a page is that large) the slowest go: what all of them keep is bounded, whatever their number.
_KEPT_BYTES: Final = 64 * 1024 * 1024
_KEPT_PAGES: Final = 8


class Page(NamedTuple):
    """A page's bytes, and the bytes of all pages that were made up to it."""

    content: bytes
    made: int


class Pages:
    """
    The pages of *path*, or of this process's own metrics if that is None. For any number of threads.
    """

    def __init__(self, path: Path | None, registry: CollectorRegistry) -> None:
        self.path = path
        self.made = 0
        self._registry = registry
        self._collector = Collector(path)
        self._lock = threading.Lock()
        self._began = float("-inf")
        self._cache: dict[tuple[bool, bool], Page] = {}

    @property
    def readable(self) -> bool:
        return self._collector.report.readable

    def page(
        self, arrival: float, *, openmetrics: bool = False, compressed: bool = False, names: Names = ALL
    ) -> Page:
        """
        Return the page for a request that came at *arrival* (time.monotonic).

        Raises DirectoryError if the directory cannot be read at all.
        """
        # Those that come during a collection wait here. The first of them collects again, for all of them.
        with self._lock:
            if names:
                # Not kept: its filter may be any. It is a collection like any other for those who wait.
                return self._add(self._rendered(arrival, openmetrics=openmetrics, names=names), compressed)
            found = self._cache.get((openmetrics, compressed)) if self._began > arrival else None
            if found is None:
                plain = self._cache.get((openmetrics, False)) if self._began > arrival else None
                content = plain.content if plain else self._rendered(arrival, openmetrics=openmetrics)
                found = self._cache[openmetrics, compressed] = self._add(content, compressed)
            return found

    def _rendered(self, arrival: float, *, openmetrics: bool, names: Names = ALL) -> bytes:
        if self._began <= arrival:
            began = time.monotonic()
            self._families = self._collector.collect()
            self._cache = {}
            self._began = began
        own: Iterable[Metric] = (
            self._registry.collect() if self.path is None else own_metrics(self._collector.report)
        )
        return render(self._families, own, openmetrics=openmetrics, names=names).encode()

    def _add(self, content: bytes, compressed: bool) -> Page:
        if compressed:
            # A page of 870 kB (1,000 label sets of a counter and a histogram) in levels 1, 3 and 6: 105, 95 and 83 kB
            # in 4, 6 and 14 ms, which is more than the rest of a scrape. Level 9, the default, takes twice that of 6.
            content = gzip.compress(content, compresslevel=3, mtime=0)
        self.made += len(content)
        return Page(content, self.made)


class PageFile(io.BytesIO):
    """A page as the file that waitress sends from. It shares the page's bytes (BytesIO copies when written to)."""

    def __init__(self, pages: Pages, page: Page) -> None:
        super().__init__(page.content)
        self._pages = pages
        self._made = page.made
        self._kept = max(_KEPT_BYTES, _KEPT_PAGES * len(page.content))

    @property
    def outdated(self) -> bool:
        """Whether so much was made since that whoever still reads this should come again."""
        return self._pages.made - self._made > self._kept
