"""Whose metrics a page has: what tells two applications of one host apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.store.locks import Locks

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True)
class Target:
    """The *application* as its server was told of it (`myapp:app`), and the *server*: gunicorn or uWSGI. Empty where unknown."""

    application: str = ""
    server: str = ""

    def arguments(self) -> list[str]:
        """Return what tells an exporter of it on the command line."""
        named = {"--application": self.application, "--server": self.server}
        return [word for option, value in named.items() if value for word in (option, value)]

    def info(self, directory: Path) -> Metric:
        """Return a sample for each server's master that uses *directory*, or one that names none."""
        family = GaugeMetricFamily(*metrics.TARGET_INFO, labels=["application", "server", "pid", "directory"])
        for pid in _masters(directory) or [""]:
            family.add_metric([self.application, self.server, pid, str(directory)], 1)
        for sample in family.samples:
            # An empty label is none, and says nothing that is not so.
            for name in [name for name, value in sample.labels.items() if not value]:
                del sample.labels[name]
        return family


def _masters(directory: Path) -> list[str]:
    try:
        # Not one in another pid namespace, where its pid means nothing here.
        return sorted({str(pid) for pid in Locks.of(directory).servers() if pid})
    except Exception:  # no directory, or not one of ours: that is told by other metrics
        return []
