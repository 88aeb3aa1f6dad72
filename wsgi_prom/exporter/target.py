"""The metrics of a page about itself: whose metrics it shows, and what the collector found."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics, version
from wsgi_prom.server.members import masters

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.collector import Report
    from wsgi_prom.merge.families import Families
    from wsgi_prom.server.listen_queues import ListeningSocket


@dataclass(frozen=True)
class Target:
    """
    The *application* as its server names it (`myapp:app`), and the *server*: gunicorn or uWSGI. Empty if unknown.

    By it a user tells two applications of one host apart. *version* and *worker_class* are the server's; *concurrency* is how
    many requests a worker serves at a time, 0 if unknown. The server listens on *sockets*;
    *stats* is the address of uWSGI's stats server. *slot* is that of the worker whose page it is, empty for the page of all.
    """

    application: str = ""
    server: str = ""
    version: str = ""
    worker_class: str = ""
    concurrency: int = 0
    sockets: tuple[ListeningSocket, ...] = ()
    stats: str = ""
    slot: str = ""

    def arguments(self) -> list[str]:
        """Return the command line arguments of an exporter for this target."""
        values = {
            "--application": self.application,
            "--server": self.server,
            # `--version` is the one of wsgi-prom.
            "--version-of-server": self.version,
            "--worker-class": self.worker_class,
            "--concurrency": self.concurrency,
            "--sockets": json.dumps(self.sockets) if self.sockets else "",
            "--stats": self.stats,
        }
        return [word for option, value in values.items() if value for word in (option, str(value))]

    def info(self, directory: Path) -> Metric:
        """Return wsgi_prom_target_info: a sample for each master that uses *directory*, or one without a pid."""
        family = GaugeMetricFamily(
            *metrics.TARGET_INFO, labels=["application", "server", "slot", "pid", "directory"]
        )
        # Masters in another pid namespace have no pid here.
        for pid in [str(pid) for pid in masters(directory)] or [""]:
            family.add_metric([self.application, self.server, self.slot, pid, str(directory)], 1)
        return _without_empty_labels(family)

    def server_info(self) -> list[Metric]:
        """Return the metrics of the server, as far as they are known."""
        if not self.server:
            return []
        family = GaugeMetricFamily(*metrics.SERVER_INFO, labels=["server", "version", "worker_class"])
        family.add_metric([self.server, self.version, self.worker_class], 1)
        # By hand nobody gives the server's version: then its Python may be another one than this one.
        return [_without_empty_labels(family), *([_python_info()] if self.version else [])]


def own_metrics(report: Report, *others: Metric, left_out: Collection[str] = ()) -> list[Metric]:
    """
    Return the `wsgi_prom_*` metrics of the scrape that *report* is about, and *others*.

    *left_out* are metrics that have no place on the page, beside those that the collector has left out.
    """
    build = GaugeMetricFamily(*metrics.BUILD_INFO, labels=["version"])
    build.add_metric([version.installed()], 1)
    slots = GaugeMetricFamily(*metrics.SLOTS, labels=["state"])
    slots.add_metric(["live"], report.slots_live)
    slots.add_metric(["free"], report.slots_free)
    return [
        build,
        *others,
        slots,
        GaugeMetricFamily(*metrics.SCRAPE_DURATION, report.duration),
        GaugeMetricFamily(*metrics.VALUE_BYTES, report.value_bytes),
        GaugeMetricFamily(*metrics.DIRECTORY_READABLE, report.readable),
        GaugeMetricFamily(*metrics.UNREADABLE, len(report.unreadable)),
        GaugeMetricFamily(*metrics.CONFLICTS, report.conflicts + len(left_out)),
    ]


def add_errors(families: Families, stage: str, number: int) -> list[Metric]:
    """Count *number* failures of *stage* in the family of all errors, and return a family for where there is none."""
    if not number:
        return []
    counted = CounterMetricFamily(*metrics.ERRORS, labels=["stage"])
    counted.add_metric([stage], float(number))
    (sample,) = counted.samples
    families.more.setdefault(counted.name, {})[sample.name, tuple(sample.labels.items())] = sample.value
    return [counted]


def _without_empty_labels(family: Metric) -> Metric:
    """Return *family* without empty labels, which are missing ones to Prometheus."""
    for sample in family.samples:
        for name in [name for name, value in sample.labels.items() if not value]:
            del sample.labels[name]
    return family


def _python_info() -> Metric:
    """Return the version of Python as the client library does. A server's hook starts the exporter with the server's."""
    version = dict(zip(("major", "minor", "patchlevel"), platform.python_version_tuple(), strict=True))
    labels = {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
    } | version
    family = GaugeMetricFamily(*metrics.PYTHON_INFO, labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family
