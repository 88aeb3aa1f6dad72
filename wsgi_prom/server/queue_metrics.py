"""The metrics of the server's listen queues, of which the exporter is told the sockets when it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.server.listen_queues import QueueIntegral, read

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.server.listen_queues import ListeningSocket, Queue

# The kernel's count is a number of 32 bits.
_WRAP: Final = 2**32


class QueueMetrics:
    """The queues of *sockets* as they are now. Not for two threads at once. *read* asks the kernel: tests give another."""

    def __init__(
        self,
        sockets: tuple[ListeningSocket, ...],
        read: Callable[[Iterable[ListeningSocket]], dict[str, Queue]] = read,
    ) -> None:
        self._sockets = sockets
        self._read = read
        # By socket: what the kernel said last, and all drops.
        self._drops: dict[str, tuple[int, int]] = {}
        self._waited = dict.fromkeys([listening.name for listening in sockets], 0.0)

    def sample(self, end: threading.Event) -> None:
        """Add up the seconds that connections wait, until *end* is set: for a thread of its own."""
        # A failure is logged at the scrape.
        QueueIntegral(lambda: self._sockets, self._wait, lambda _: None).run(end)

    def _wait(self, name: str, seconds: float) -> None:
        self._waited[name] += seconds

    def families(self) -> list[Metric]:
        """Return the metrics. Raises OSError where the kernel does not answer."""
        queues = self._read(self._sockets)
        length = GaugeMetricFamily(*metrics.LISTEN_QUEUE, labels=["socket"])
        limit = GaugeMetricFamily(*metrics.LISTEN_QUEUE_LIMIT, labels=["socket"])
        drops = CounterMetricFamily(*metrics.LISTEN_DROPS, labels=["socket"])
        waited = CounterMetricFamily(*metrics.LISTEN_QUEUE_SECONDS, labels=["socket"])
        for name, queue in queues.items():
            length.add_metric([name], queue.length)
            limit.add_metric([name], queue.limit)
            waited.add_metric([name], self._waited[name])
            if queue.drops is not None:
                drops.add_metric([name], self._all_drops(name, queue.drops))
        return [length, limit, waited, drops]

    def _all_drops(self, name: str, now: int) -> int:
        last, total = self._drops.get(name, (0, 0))
        # A socket that was opened anew counts from 0.
        more = now - last if now >= last else now + (_WRAP - last if last > _WRAP // 2 else 0)
        self._drops[name] = now, total + more
        return total + more
