"""The metrics of the server's listen queues, of which the exporter is told the sockets when it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.server.listen_queues import QueueIntegral, listeners

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.server.listen_queues import ListeningSocket
    from wsgi_prom.server.sock_diag import Listener

# The kernel's count is a number of 32 bits.
_WRAP: Final = 2**32


class QueueMetrics:
    """The queues of *sockets* as they are now. Not for two threads at once. *read* asks the kernel: tests give another."""

    def __init__(
        self,
        sockets: tuple[ListeningSocket, ...],
        read: Callable[[Iterable[ListeningSocket]], dict[str, list[Listener]]] = listeners,
    ) -> None:
        self._sockets = sockets
        self._read = read
        # By name: what the kernel said last of each of its listeners, by inode, and all drops. With gunicorn's reuse_port
        # workers come and go, each with a listener.
        self._drops: dict[str, tuple[dict[int, int], int]] = {}
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
        for name, found in queues.items():
            length.add_metric([name], sum([listener.length for listener in found]))
            limit.add_metric([name], sum([listener.limit for listener in found]))
            waited.add_metric([name], self._waited[name])
            counts = {listener.inode: listener.drops for listener in found if listener.drops is not None}
            if len(counts) == len(found):
                drops.add_metric([name], self._all_drops(name, counts))
        return [length, limit, waited, drops]

    def _all_drops(self, name: str, counts: dict[int, int]) -> int:
        last, total = self._drops.get(name, ({}, 0))
        total += sum([_more(count, last.get(inode, 0)) for inode, count in counts.items()])
        self._drops[name] = counts, total
        return total


def _more(now: int, last: int) -> int:
    # A socket that was opened anew counts from 0.
    return now - last if now >= last else now + (_WRAP - last if last > _WRAP // 2 else 0)
