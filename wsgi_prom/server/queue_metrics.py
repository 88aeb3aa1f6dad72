"""The metrics of the server's listen queues, of which the exporter is told the sockets when it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.client import patch
from wsgi_prom.server.listen_queues import QueueIntegral, read
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

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

    def families(self) -> list[Metric]:
        """Return the metrics. Raises OSError where the kernel does not answer."""
        queues = self._read(self._sockets)
        length = GaugeMetricFamily(*metrics.LISTEN_QUEUE, labels=["socket"])
        limit = GaugeMetricFamily(*metrics.LISTEN_QUEUE_LIMIT, labels=["socket"])
        drops = CounterMetricFamily(*metrics.LISTEN_DROPS, labels=["socket"])
        for name, queue in queues.items():
            length.add_metric([name], queue.length)
            limit.add_metric([name], queue.limit)
            if queue.drops is not None:
                drops.add_metric([name], self._all_drops(name, queue.drops))
        return [length, limit, drops]

    def _all_drops(self, name: str, now: int) -> int:
        last, total = self._drops.get(name, (0, 0))
        # A socket that was opened anew counts from 0.
        more = now - last if now >= last else now + (_WRAP - last if last > _WRAP // 2 else 0)
        self._drops[name] = now, total + more
        return total + more


def integral(path: Path, sockets: tuple[ListeningSocket, ...]) -> QueueIntegral:
    """
    Return what adds up the seconds that connections wait, into a slot of this process in the directory *path*.

    So the next exporter goes on with them. The slot is claimed when the first connection waits.
    """
    patch.install()
    current_slot.attach(path)
    waited = Counter(*metrics.LISTEN_QUEUE_SECONDS, ["socket"], registry=None)

    def add(name: str, seconds: float) -> None:
        if seconds:
            waited.labels(name).inc(seconds)

    # A failure is logged at the scrape.
    return QueueIntegral(lambda: sockets, add, lambda _: None)
