"""
All that the exporter finds out about a server, one source after the other.

A source that fails costs its own metrics, and is logged once until it works again. None waits longer than a second.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from wsgi_prom.server import uwsgi_families, uwsgi_stats
from wsgi_prom.server.queue_metrics import QueueMetrics
from wsgi_prom.server.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.server.listen_queues import ListeningSocket

log = logging.getLogger("wsgi_prom")

# uWSGI's master answers when it has time; Prometheus gives a scrape 10 s.
_STATS_SECONDS: Final = 1.0
_QUEUES: Final = "the kernel's listen queues"


class Sources:
    """
    The sources of one server. Not for two threads at once.

    *hooked*: its hook says which processes are workers. *concurrency* is how many requests a worker serves at a time, 0 if
    unknown. It listens on *sockets*, and *stats* is the address of uWSGI's stats server, empty without one.
    """

    def __init__(
        self, *, hooked: bool, concurrency: int, sockets: tuple[ListeningSocket, ...], stats: str
    ) -> None:
        self._workers = partial(Workers().families, hooked=hooked, concurrency=concurrency)
        self._others: dict[str, Callable[[], list[Metric]]] = {}
        self._queues = QueueMetrics(sockets)
        if sockets:
            self._others[_QUEUES] = self._queues.families
        if stats:
            self._others["uWSGI's stats server"] = partial(_uwsgi, stats)
        self._failed: set[str] = set()

    def sample(self) -> None:
        """Sample the listen queues between scrapes, for ever: in a thread of its own."""
        if _QUEUES in self._others:
            self._queues.sample(threading.Event())

    def families(self, slots: Iterable[Reading]) -> list[Metric]:
        """Return the metrics of all sources; *slots* are those of the server's processes. Never raises."""
        sources: dict[str, Callable[[], list[Metric]]] = {
            "workers": partial(self._workers, slots),
            **self._others,
        }
        return [family for name, source in sources.items() for family in self._read(name, source)]

    def _read(self, name: str, source: Callable[[], list[Metric]]) -> list[Metric]:
        try:
            found = source()
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                log.warning("%s cannot be read (%s: %s): no metrics of it", name, type(error).__name__, error)
            return []
        self._failed.discard(name)
        return found


def _uwsgi(address: str) -> list[Metric]:
    try:
        return uwsgi_families.families(uwsgi_stats.read(address, _STATS_SECONDS))
    except (OSError, ValueError):  # the server is too busy, or ends: uwsgi_up says so
        return uwsgi_families.families(None)
