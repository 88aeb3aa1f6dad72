"""
The metrics of the server's listen queues, of which the exporter is told the sockets when it is started.

What a page shows has been written to the directory before, where it can be: the next exporter goes on from it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.server.listen_queues import listeners
from wsgi_prom.store import queue_totals
from wsgi_prom.store.queue_totals import QueueTotal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.server.listen_queues import ListeningSocket
    from wsgi_prom.server.sock_diag import Listener

# How often `sample` looks: 0.3 % of a core for one TCP socket, where ten times a second were 0.45 %. A connection that waits
# for 2 s is then counted to within 10 %.
_LOOK_SECONDS: Final = 0.2
# After a longer pause a look does not tell what happened in it: the process was stopped, or the machine paused.
_LONGEST_PAUSE_SECONDS: Final = 2.0
# The kernel's count is a number of 32 bits.
_WRAP: Final = 2**32


class QueueMetrics:
    """
    The queues of *sockets* as they are now. *read* asks the kernel, and *clock* returns seconds: tests give others.

    `families` is for one thread at a time, and `sample` for another one.
    """

    def __init__(
        self,
        sockets: tuple[ListeningSocket, ...],
        read: Callable[[Iterable[ListeningSocket]], dict[str, list[Listener]]] = listeners,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sockets = sockets
        self._read = read
        self._clock = clock
        self._looked: float | None = None
        self._path: Path | None = None
        self._lock = threading.Lock()
        # By name. With gunicorn's reuse_port workers come and go, each with a listener.
        self._totals = {listening.name: QueueTotal(0.0, 0, {}) for listening in sockets}
        self._written = dict(self._totals)

    def go_on(self, path: Path, *, writes: bool = True) -> None:
        """
        Go on from what the exporter of the directory *path* has counted. Call it once, before all else. A process that is not the
        exporter says that it *writes* nothing.
        """
        self._path = path if writes else None
        with suppress(OSError, DirectoryError, FormatError):
            before = queue_totals.read(path)
            self._totals = {name: before.get(name, total) for name, total in self._totals.items()}
            self._written = dict(self._totals)

    def sample(self, end: threading.Event) -> None:
        """Add up the seconds that connections wait, until *end* is set: for a thread of its own."""
        while not end.wait(_LOOK_SECONDS):
            with suppress(Exception):  # a scrape logs it
                self.look()

    def look(self) -> None:
        """
        Do once what `sample` does: add the length of each queue times the time since the last look. Raises OSError as
        `families`.

        Some time is not counted, since nobody knows how long the queue was: before the first look, before one that failed, and
        before one that comes more than 2 s after the last.
        """
        now = self._clock()
        seconds = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if seconds > _LONGEST_PAUSE_SECONDS:
            return
        for name, group in self._read(self._sockets).items():
            self._wait(name, sum([listener.length for listener in group]) * seconds)

    def _wait(self, name: str, seconds: float) -> None:
        with self._lock:
            total = self._totals[name]
            self._totals[name] = total._replace(seconds=total.seconds + seconds)

    def families(self) -> list[Metric]:
        """Return the metrics. Raises OSError where the kernel does not answer."""
        queues = self._read(self._sockets)
        length = GaugeMetricFamily(*metrics.LISTEN_QUEUE, labels=["socket"])
        limit = GaugeMetricFamily(*metrics.LISTEN_QUEUE_LIMIT, labels=["socket"])
        drops = CounterMetricFamily(*metrics.LISTEN_DROPS, labels=["socket"])
        waited = CounterMetricFamily(*metrics.LISTEN_QUEUE_SECONDS, labels=["socket"])
        totals = self._counted(queues)
        for name, group in queues.items():
            length.add_metric([name], sum([listener.length for listener in group]))
            limit.add_metric([name], sum([listener.limit for listener in group]))
            waited.add_metric([name], totals[name].seconds)
            if all(listener.drops is not None for listener in group):
                drops.add_metric([name], totals[name].drops)
        return [length, limit, waited, drops]

    def _counted(self, queues: dict[str, list[Listener]]) -> dict[str, QueueTotal]:
        """Count the drops of *queues*, and return all totals, which are written to the directory if they have changed."""
        with self._lock:
            for name, group in queues.items():
                counts = {listener.inode: listener.drops for listener in group if listener.drops is not None}
                if len(counts) == len(group):
                    self._totals[name] = _more_drops(self._totals[name], counts)
            totals = dict(self._totals)
        if self._path is not None and totals != self._written:
            with suppress(OSError, DirectoryError):  # a full disk, or the directory is gone
                queue_totals.write(self._path, totals)
                self._written = totals
        return totals


def _more_drops(total: QueueTotal, counts: dict[int, int]) -> QueueTotal:
    more = sum([_more(count, total.seen.get(inode, 0)) for inode, count in counts.items()])
    return total._replace(drops=total.drops + more, seen=counts)


def _more(now: int, last: int) -> int:
    # A socket that was opened anew counts from 0.
    return now - last if now >= last else now + (_WRAP - last if last > _WRAP // 2 else 0)
