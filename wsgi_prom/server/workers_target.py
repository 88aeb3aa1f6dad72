"""
How many workers gunicorn is to have, which its arbiter alone knows: it writes that into the lock file, where it has a byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.store import locks
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.metrics_core import Metric


def families(path: Path) -> list[Metric]:
    """Return the number, of all arbiters that live and use the directory *path*. Raises OSError, DirectoryError."""
    family = GaugeMetricFamily(*metrics.WORKERS_TARGET)
    lock_file = LockFile.of(path)
    numbers = [lock_file.number(locks.WORKERS[byte]) for byte, _ in lock_file.holders(locks.SERVERS)]
    # One more than the workers: 0 is of a server that does not tell.
    told = [number - 1 for number in numbers if number]
    if told:
        family.add_metric([], sum(told))
    return [family]
