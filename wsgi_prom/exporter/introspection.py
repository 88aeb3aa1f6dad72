"""What the exporter says about itself, beside the metrics of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics, version

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.collector import Report


def own_metrics(report: Report, *others: Metric) -> list[Metric]:
    """Return the `wsgi_prom_*` metrics of the scrape that *report* is about, and *others*."""
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
        GaugeMetricFamily(*metrics.CONFLICTS, report.conflicts),
    ]
