"""
The workers of a server, as their slots tell: how many are busy, and how many seconds each has been.

1. A worker is a slot: who takes the place of an ended worker goes on with its figures, under its label. Another process may
   take the slot instead (gunicorn's arbiter does, to count exits); the figures stay.
2. Busy seconds are those of the requests that have ended, and of one that is alone in its process so far. Requests that
   overlap in a worker (threads) count when they end. A counter never goes back: what a killed request has taken stays.
3. What is not known is absent: without a server's hook nobody says which slots are workers', and without the gauge of requests
   in progress none is busy or idle.
"""

from __future__ import annotations

import os
import time
import weakref
from array import array
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.store import in_progress
from wsgi_prom.store.claims import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Layout, Reading
    from wsgi_prom.store.file_format import Schema

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Workers:
    """The workers of one directory. Not for two threads at once. *clock* and *wall_clock* return seconds: tests give them."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._columns: weakref.WeakKeyDictionary[Layout, _Columns] = weakref.WeakKeyDictionary()
        self._busy: dict[str, _BusySeconds] = {}

    def families(
        self, slots: Iterable[Reading], *, hooked: bool = True, concurrency: int = 0
    ) -> list[Metric]:
        """
        Return the metrics of the workers that hold or held *slots*.

        *hooked*: a server's hook says which they are. *concurrency* is how many requests a worker serves at a time, 0 if
        unknown.
        """
        now = self._clock()
        found = [_Worker(slot, self._columns_of(slot.layout)) for slot in slots]
        workers = [
            worker for worker in found if worker.serves or worker.claim.stage or worker.name in self._busy
        ]
        alive = [worker for worker in workers if worker.alive and worker.claim.stage]
        return [
            *([_states(alive)] if hooked else []),
            *([_capacity(alive, concurrency)] if hooked and concurrency else []),
            self._age([worker for worker in workers if worker.alive], now),
            *self._by_worker(workers, now),
        ]

    def _by_worker(self, workers: list[_Worker], now: float) -> list[Metric]:
        busy = CounterMetricFamily(*metrics.WORKER_BUSY, labels=["worker"])
        requests = CounterMetricFamily(*metrics.WORKER_REQUESTS, labels=["worker"])
        started = GaugeMetricFamily(*metrics.WORKER_START, labels=["worker"])
        # To the tick: the two clocks are read one after the other, and a start is to be the same at each scrape.
        boot = round(self._wall_clock() - time.clock_gettime(time.CLOCK_BOOTTIME), 2)
        for worker in workers:
            seconds = self._busy.setdefault(worker.name, _BusySeconds())
            busy.add_metric([worker.name], seconds.at(worker, now))
            requests.add_metric([worker.name], worker.requests)
            if worker.alive and worker.claim.stage and worker.claim.started:
                started.add_metric([worker.name], boot + worker.claim.started / _TICKS)
        return [busy, requests, started]

    def _age(self, alive: list[_Worker], now: float) -> Metric:
        """Return the age of the oldest request in progress, of those whose start is known; no sample if there is one that is not."""
        family = GaugeMetricFamily(*metrics.REQUEST_AGE)
        if all(worker.known for worker in alive):
            starts = [start for worker in alive for start in worker.starts]
            family.add_metric([], max([now - start for start in starts], default=0.0))
        return family

    def _columns_of(self, layout: Layout) -> _Columns:
        found = self._columns.get(layout)
        if found is None:
            found = self._columns[layout] = _Columns(layout)
        return found


class _Columns:
    """Which columns of a *layout* are about its worker: found once for all slots that share it."""

    def __init__(self, layout: Layout) -> None:
        seconds: list[int] = []
        requests: list[int] = []
        self.in_progress: list[int] = []
        first = 0
        for schema, _ in layout.rows:
            counted = _requests(schema)
            if counted is not None:
                requests += range(first + counted[0], first + counted[1])
                # request/schemas.py: of a row with a duration it is the first, of a session the last.
                seconds.append(first if counted[0] else first + counted[1])
            elif schema.metrics and schema.metrics[0].mode == "livestarts":
                self.in_progress.append(first)
            first += schema.width
        self.serves = bool(seconds)
        self.seconds = _getter(seconds)
        self.requests = _getter(requests)


class _Worker:
    """One worker, as a *slot* was read."""

    def __init__(self, slot: Reading, columns: _Columns) -> None:
        data = array("d", slot.data)
        self.name = slot.pid
        self.claim = slot.claim
        self.alive = slot.live
        self.ended_seconds = sum(columns.seconds(data))
        self.requests = sum(columns.requests(data))
        found = [data[column] for column in columns.in_progress] if slot.live else []
        self.in_progress = sum([in_progress.number(value) for value in found])
        self.starts = [start for value in found if (start := in_progress.start(value)) is not None]
        # Whether the start of each request in progress is known.
        self.known = len(self.starts) == self.in_progress
        self.state = _STATES.get(slot.claim.stage) or ("busy" if self.in_progress else "idle")
        self.counts_in_progress = bool(columns.in_progress)
        # Whether requests were recorded here.
        self.serves = columns.serves


class _BusySeconds:
    """The busy seconds of the workers that held one slot, one after the other."""

    def __init__(self) -> None:
        self._nonce = 0
        self._killed = 0.0  # of requests that never ended
        self._open = 0.0
        self._ended = 0.0
        self._shown = 0.0

    def at(self, worker: _Worker, now: float) -> float:
        gone = not worker.alive or worker.claim.nonce != self._nonce
        if gone and self._open:
            # Unless it ended between the two looks, and its seconds are among the others by now.
            self._killed += max(self._open - (worker.ended_seconds - self._ended), 0.0)
        self._nonce, self._ended = worker.claim.nonce, worker.ended_seconds
        self._open = sum([max(now - start, 0.0) for start in worker.starts])
        self._shown = max(self._shown, worker.ended_seconds + self._killed + self._open)
        return self._shown


_STATES: Final[dict[int, str]] = {Stage.BOOTING: "booting", Stage.STOPPING: "stopping"}


def _states(alive: list[_Worker]) -> Metric:
    family = GaugeMetricFamily(*metrics.WORKERS, labels=["state"])
    known = all(worker.counts_in_progress or worker.state in _STATES.values() for worker in alive)
    for state in ("booting", "idle", "busy", "stopping") if known else _STATES.values():
        family.add_metric([state], sum([worker.state == state for worker in alive]))
    return family


def _capacity(alive: list[_Worker], concurrency: int) -> Metric:
    serving = sum([worker.claim.stage == Stage.SERVING for worker in alive])
    return GaugeMetricFamily(*metrics.WORKER_CAPACITY, serving * concurrency)


def _requests(schema: Schema) -> tuple[int, int] | None:
    """Return the columns that add up to the number of requests of a row, None for a row of something else."""
    if schema.labelnames[:3] != ("method", "route", "status"):
        return None
    counters = [metric for metric in schema.metrics if metric.name.endswith(metrics.REQUESTS[0])]
    return counters[0].count if counters and schema.width > 1 else None


def _getter(columns: list[int]) -> Callable[[array[float]], Sequence[float]]:
    """Return a function that picks *columns*; operator.itemgetter takes 10 ns for each, and returns one alone as it is."""
    if len(columns) > 1:
        return itemgetter(*columns)
    return lambda data: [data[column] for column in columns]
