"""
All that the exporter finds out about a server, from sources that are independent of each other.

A source that fails, hangs or is slow costs its own metrics.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.server import uwsgi_families, uwsgi_stats
from wsgi_prom.server.heartbeats import Heartbeats
from wsgi_prom.server.processes import Processes
from wsgi_prom.server.queue_metrics import QueueMetrics
from wsgi_prom.server.source import LONGEST, Source
from wsgi_prom.server.workers import Workers
from wsgi_prom.store import locks
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.server.listen_queues import ListeningSocket
    from wsgi_prom.server.workers import WorkerState

    # Returns the metrics of a source, which may use the slots.
    Read = Callable[[list[Reading]], list[Metric]]

log = logging.getLogger("wsgi_prom")

T = TypeVar("T")

# Seconds until the next source is asked too. Most take a few milliseconds, and threads that compute at the same time contend
# for the interpreter: with 32 workers of uWSGI, a tenth more CPU time.
_ALONE: Final = 0.1


class Sources:
    """
    The sources of one server.

    *hooked*: its hook says which processes are workers. *concurrency* is how many requests a worker serves at a time, 0 if
    unknown. It listens on *sockets*, and *stats* is the address of uWSGI's stats server, empty without one.
    *heartbeats*: it is gunicorn, whose workers have heartbeats. *daemons*: its master may run other programs.
    """

    def __init__(
        self,
        *,
        hooked: bool,
        concurrency: int,
        sockets: tuple[ListeningSocket, ...],
        stats: str,
        heartbeats: bool = False,
        daemons: bool = False,
    ) -> None:
        # Sources that read the slots and the lock file, which are read for each page anyway.
        self._workers = Workers()
        self._inside: list[Read] = [partial(self._workers.families, hooked=hooked, concurrency=concurrency)]
        self._failing: set[object] = set()
        # Each with the function that reads it.
        self._outside: list[tuple[Source, Read]] = []
        self._queues = queues = QueueMetrics(sockets) if sockets else None
        if queues is not None:
            self._outside.append((Source("the kernel's listen queues"), lambda _: queues.families()))
        if heartbeats:
            self._outside.append((Source("the heartbeats of gunicorn's workers"), Heartbeats().families))
        if stats:
            source = Source("uWSGI's stats server", otherwise=uwsgi_families.families(None))
            self._outside.append((source, lambda _: _uwsgi(stats)))
        self._arbiter = heartbeats
        self._daemons = daemons

    def watch(self, path: Path) -> None:
        """
        Show the processes of the server that uses the directory *path* too, and take samples between scrapes.

        Call it once, in the exporter, before the first scrape: it imports psutil, and starts threads that do not end.
        """
        if self._arbiter:
            self._inside.append(lambda _: _workers_target(path))
        samplers = []
        if self._queues is not None:
            self._queues.go_on(path)
            samplers.append(self._queues.sample)
        try:
            processes = Processes(path, daemons=self._daemons)
        except ImportError as error:
            log.warning(
                "no process_* metrics, since psutil cannot be imported (%s). pip install 'wsgi-prom[processes]'",
                error,
            )
        except Exception as error:
            log.warning("no process_* metrics (%s: %s)", type(error).__name__, error)
        else:
            self._outside.append((Source("the server's processes"), processes.families))
            samplers.append(processes.sample)
        for sample in samplers:
            threading.Thread(target=sample, args=(threading.Event(),), daemon=True).start()

    def workers(self, slots: list[Reading]) -> list[Metric]:
        """
        Return what *slots*, those of the server's processes, tell of its workers. Never raises. Not for two threads at once.
        """
        found: list[Metric] = []
        for read in self._inside:
            found += self._tried("no metrics of the workers", read, slots)
        return found

    def worker_states(self, slots: list[Reading]) -> list[WorkerState]:
        """Return what the workers do, for the slots that `workers` was called with last. As it. Never raises."""
        return self._tried("no states of the workers", self._workers.states, slots)

    def _tried(
        self, consequence: str, read: Callable[[list[Reading]], list[T]], slots: list[Reading]
    ) -> list[T]:
        """Return what *read* returns for *slots*; nothing if it fails, and log the *consequence* once while it does."""
        try:
            found = read(slots)
        except Exception as error:
            if read not in self._failing:
                log.warning("%s (%s: %s)", consequence, type(error).__name__, error)
            self._failing.add(read)
            return []
        self._failing.discard(read)
        return found

    def families(
        self, slots: list[Reading], arrival: float, deadline: float, collected: float = inf
    ) -> list[list[Metric]]:
        """
        Return the metrics of each other source, for a scrape that arrived at *arrival*; of those that answer by *deadline*.

        *collected* is when *slots* were collected, by default now. All are times of time.monotonic. Scrapes at the same time
        get the same lists. Never raises. For any number of threads.
        """
        sources = [(source, partial(read, slots)) for source, read in self._outside]
        for source, read in sources:
            reading = source.begin(read, arrival, collected)
            reading.ended.wait(max(min(deadline - time.monotonic(), _ALONE), 0))
        return [source.families(read, arrival, deadline, collected) for source, read in sources]


def _workers_target(path: Path) -> list[Metric]:
    """
    Return how many workers the arbiters of gunicorn are to have that use the directory *path*, as they say in the lock file.

    Raises OSError, DirectoryError.
    """
    lock_file = LockFile.of(path)
    numbers = [lock_file.number(locks.WORKERS[byte]) for byte, _ in lock_file.holders(locks.SERVERS)]
    # One more than the workers: 0 is of a server that does not tell.
    told = [number - 1 for number in numbers if number]
    family = GaugeMetricFamily(*metrics.WORKERS_TARGET)
    if told:
        family.add_metric([], sum(told))
    return [family]


def _uwsgi(address: str) -> list[Metric]:
    try:
        # A scrape with less time than that leaves earlier.
        return uwsgi_families.families(uwsgi_stats.read(address, LONGEST))
    except (OSError, ValueError):  # the server is too busy, or ends: uwsgi_up says so
        return uwsgi_families.families(None)
