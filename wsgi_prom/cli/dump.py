"""
Print the page that a scrape of the exporter would show, as far as the directory tells it, without the exporter.

The rest is left out: the listen queues, uWSGI's stats server, the server's version and capacity, the exporter itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_prom.cli.arguments import add_directory, add_json, directory_of
from wsgi_prom.cli.output import tell, write, write_json
from wsgi_prom.exporter.exposition import render
from wsgi_prom.exporter.target import Target, own_metrics
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.names import UNDERSCORES
from wsgi_prom.server.workers import Workers, has_hook
from wsgi_prom.store import directory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    path = directory_of(arguments)
    collector = Collector(path)
    families = collector.collect()
    slots = collector.slots
    workers = Workers().families(slots, hooked=has_hook(slots))
    # A text has names with underscores, of which two may be one.
    left_out = () if arguments.json else families.conflicts_on(UNDERSCORES)
    own = own_metrics(collector.report, Target().info(path), *workers, left_out=left_out)
    if arguments.json:
        write_json(_to_json([*families.to_metrics(), *own]))
    else:
        write(render(families, own))
    if not directory.has_metrics(path):
        tell(f"{path} has no metrics: no process has recorded in it")
    for name in collector.report.unreadable:
        tell(f"{name} cannot be read: its metrics are left out")
    return 0


def _to_json(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    return [
        {
            "name": metric.name,
            "type": metric.type,
            "help": metric.documentation,
            "samples": [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for sample in metric.samples
            ],
        }
        for metric in metrics
    ]
