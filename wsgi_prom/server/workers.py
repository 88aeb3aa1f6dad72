"""
The workers of a server, as their slots tell: how many are busy, and how many seconds each has been.

1. A worker is a slot: who takes the place of an ended worker goes on with its figures, under its label. Another process may
   take the slot instead (a mule, a task worker); the figures stay.
2. Busy seconds are those of the requests that have ended. So the counter never goes back, whoever is killed or restarted; what
   a killed worker's last request took is in no figure.
3. What is not known is absent: without a server's hook nobody says which slots are workers', and without the gauge of requests
   in progress none is busy or idle.
"""

from __future__ import annotations

import time
import weakref
from array import array
from collections import defaultdict
from itertools import compress, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.server.stat import TICKS
from wsgi_prom.store import claims, in_progress
from wsgi_prom.store.claims import Stage

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Layout, Reading
    from wsgi_prom.store.schemas import Schema

# Rows.
_LONG_RUN: Final = 16
# Of so many columns one is read in the time that all of them take to be compared.
_FEW: Final = 32


class Workers:
    """The workers of one directory. Not for two threads at once."""

    def __init__(self) -> None:
        self._columns: weakref.WeakKeyDictionary[Layout, _Columns] = weakref.WeakKeyDictionary()
        # By slot, as of the last scrape: those of a slot that has not changed are not added up again.
        self._ended: dict[Hashable, _Ended] = {}
        # Of slots that were once a worker's.
        self._names: set[str] = set()

    def families(
        self, slots: Iterable[Reading], *, hooked: bool = True, concurrency: int = 0
    ) -> list[Metric]:
        """
        Return the metrics of the workers that hold or held *slots*.

        *hooked*: a server's hook says which they are. *concurrency* is how many requests a worker serves at a time, 0 if
        unknown.
        """
        now = time.monotonic()
        candidates, before = [], self._ended
        self._ended = {}
        for slot in slots:
            worker = _Worker(slot, self._columns_of(slot.layout), before.get(slot.key))
            self._ended[slot.key] = worker.ended
            candidates.append(worker)
        self._names |= {worker.name for worker in candidates if worker.serves or worker.claim.stage}
        workers = [worker for worker in candidates if worker.name in self._names]
        alive = [worker for worker in workers if worker.alive and worker.claim.stage]
        return [
            *([_states(alive)] if hooked else []),
            *([_capacity(alive, concurrency)] if hooked and concurrency else []),
            self._age([worker for worker in workers if worker.alive], now),
            *self._by_worker(workers),
        ]

    def states(self, slots: Iterable[Reading]) -> list[WorkerState]:
        """Return what the workers that live are doing, as *slots* tell, those of the last call of `families`."""
        now, here = time.monotonic(), claims.namespace()
        found = []
        for slot in slots:
            if slot.live and slot.name in self._names:
                worker = _Worker(slot, self._columns_of(slot.layout), self._ended.get(slot.key))
                found.append(
                    WorkerState(
                        worker.name,
                        worker.state if worker.state_known else None,
                        slot.claim.pid if here and slot.claim.namespace == here else None,
                        worker.in_progress if worker.counts_in_progress else None,
                        tuple([max(now - start, 0.0) for start in worker.starts])
                        if worker.known and worker.counts_in_progress
                        else None,
                    )
                )
        return found

    def _by_worker(self, workers: list[_Worker]) -> list[Metric]:
        busy = CounterMetricFamily(*metrics.WORKER_BUSY, labels=["worker"])
        requests = CounterMetricFamily(*metrics.WORKER_REQUESTS, labels=["worker"])
        started = GaugeMetricFamily(*metrics.WORKER_START, labels=["worker"])
        # To the tick: the two clocks are read one after the other, and a start is to be the same at each scrape.
        boot = round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME), 2)
        # Added up: a slot that is gone, with its directory, may have had the number of one that is there.
        seconds: defaultdict[str, float] = defaultdict(float)
        served: defaultdict[str, float] = defaultdict(float)
        for worker in workers:
            seconds[worker.name] += worker.ended.seconds
            served[worker.name] += worker.ended.number
            if worker.alive and worker.claim.stage and worker.claim.started:
                started.add_metric([worker.name], boot + worker.claim.started / TICKS)
        for name in seconds:
            busy.add_metric([name], seconds[name])
            requests.add_metric([name], served[name])
        return [busy, requests, started]

    def _age(self, alive: list[_Worker], now: float) -> Metric:
        """
        Return the age of the oldest request in progress, of those whose start is known; no sample if there is one that is not.
        """
        family = GaugeMetricFamily(*metrics.REQUEST_AGE)
        if all(worker.known for worker in alive):
            starts = [start for worker in alive for start in worker.starts]
            family.add_metric([], max([now - start for start in starts], default=0.0))
        return family

    def _columns_of(self, layout: Layout) -> _Columns:
        columns = self._columns.get(layout)
        if columns is None:
            columns = self._columns[layout] = _Columns(layout)
        return columns


def has_hook(slots: Iterable[Reading]) -> bool:
    """Return whether a worker lives in one of *slots* whose stage is known: only a server's hook tells it."""
    return any(slot.live and slot.claim.stage for slot in slots)


class WorkerState(NamedTuple):
    """
    What the worker *name* does now: None for what is not known.

    *pid* means something in this process's pid namespace. *ages* are those of its requests *in_progress*, in seconds; None if
    the start of one is not known: of requests that overlap.
    """

    name: str
    state: str | None
    pid: int | None
    in_progress: int | None
    ages: tuple[float, ...] | None


class _Columns:
    """Which columns of a *layout* are about its worker: found once for all slots that share it."""

    def __init__(self, layout: Layout) -> None:
        self.in_progress: list[int] = []
        self._seconds = array("I")
        # The columns that count requests. Of a long run of rows of one schema: the first value, the column behind the last row,
        # the columns of a row, and which of its values; a list of all their indices would take more memory than the columns. Of
        # short runs, as where metrics of the application's own come between, a 1 each: slices of these would take 7 ms for
        # 1,000 rows, and a look at each column takes 0.5.
        self._runs: list[tuple[int, int, int, range]] = []
        self._scattered = bytearray(layout.width)
        first = 1  # behind the start time
        for schema, group in groupby(layout.rows, key=itemgetter(0)):
            rows = sum(1 for _ in group)
            end = first + schema.stride * rows
            counted = _requests(schema)
            if counted is not None:
                # request/row_schemas.py: of a row with a duration it is the first, of a session the last.
                column = 0 if counted[0] else counted[1]
                self._seconds.extend(range(first + column, end, schema.stride))
                if rows >= _LONG_RUN:
                    self._runs.append((first, end, schema.stride, range(*counted)))
                else:
                    for number in range(*counted):
                        self._scattered[first + number : end : schema.stride] = b"\1" * rows
            elif schema.metrics and schema.metrics[0].mode == "livestarts":
                self.in_progress.append(first)
            first = end
        if not any(self._scattered):
            self._scattered.clear()
        # Of a worker with few routes beside many metrics of the application's own: to read these columns takes less than to see
        # whether the slot has changed, 40 us for 17,000 columns that are not in the processor's cache.
        self._few: array[int] | None = None
        if not self._runs and (len(self._seconds) + sum(self._scattered)) * _FEW <= layout.width:
            self._few = array("I", compress(range(layout.width), self._scattered))

    def ended(self, data: bytes, before: _Ended | None) -> _Ended:
        """Return the requests in *data* that have ended, which are *before* if that is of equal data."""
        if self._few is not None:
            column = memoryview(data).cast("d").__getitem__
            return _Ended(self, b"", sum(map(column, self._seconds)), sum(map(column, self._few)))
        if before and before.columns is self and before.data == data:
            return before
        columns = array("d", data)
        return _Ended(self, data, sum(map(columns.__getitem__, self._seconds)), self._requests(columns))

    def _requests(self, data: array[float]) -> float:
        long_runs = [
            sum(data[first + column : end : stride])
            for first, end, stride, counted in self._runs
            for column in counted
        ]
        return sum(long_runs) + sum(compress(data, self._scattered))

    @property
    def serves(self) -> bool:
        """Whether requests were recorded here."""
        return bool(self._seconds)


class _Ended(NamedTuple):
    """
    The requests of one slot that have ended: how long they took, how many they are; by *columns*, of *data* if that is to be
    compared.
    """

    columns: _Columns
    # The collector keeps it too.
    data: bytes
    seconds: float
    number: float


class _Worker:
    """One worker, as its *slot* was read."""

    def __init__(self, slot: Reading, columns: _Columns, before: _Ended | None) -> None:
        self.name = slot.name
        self.claim = slot.claim
        self.alive = slot.live
        self.ended = columns.ended(slot.data, before)
        now = memoryview(slot.data).cast("d")
        values = [now[column] for column in columns.in_progress] if slot.live else []
        self.in_progress = sum([in_progress.number(value) for value in values])
        self.starts = [start for value in values if (start := in_progress.start(value)) is not None]
        # Whether the start of each request in progress is known.
        self.known = len(self.starts) == self.in_progress
        self.state = _STATES.get(slot.claim.stage) or ("busy" if self.in_progress else "idle")
        self.counts_in_progress = bool(columns.in_progress)
        self.state_known = self.counts_in_progress or slot.claim.stage in _STATES
        self.serves = columns.serves


_STATES: Final[dict[int, str]] = {Stage.BOOTING: "booting", Stage.STOPPING: "stopping"}


def _states(alive: list[_Worker]) -> Metric:
    family = GaugeMetricFamily(*metrics.WORKERS, labels=["state"])
    known = all(worker.state_known for worker in alive)
    for state in ("booting", "idle", "busy", "stopping") if known else _STATES.values():
        family.add_metric([state], sum([worker.state == state for worker in alive]))
    return family


def _capacity(alive: list[_Worker], concurrency: int) -> Metric:
    serving = sum([worker.claim.stage == Stage.SERVING for worker in alive])
    return GaugeMetricFamily(*metrics.WORKER_CAPACITY, serving * concurrency)


def _requests(schema: Schema) -> tuple[int, int] | None:
    """Return the columns that add up to the number of requests of a row, None for a row of something else."""
    if schema.labelnames[:3] not in metrics.REQUEST_LABELS:
        return None
    counters = [metric for metric in schema.metrics if metric.name.endswith(metrics.REQUESTS[0])]
    return counters[0].count if counters and schema.width > 1 else None
