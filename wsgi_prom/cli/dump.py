"""Print what a scrape would show."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from wsgi_prom.cli.arguments import add_directory, add_json, directory_of
from wsgi_prom.exporter.exposition import render
from wsgi_prom.exporter.introspection import own_metrics
from wsgi_prom.storage.collector import Collector

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directory(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    collector = Collector(directory_of(arguments))
    families = collector.collect()
    own = own_metrics(collector.report)
    if arguments.json:
        json.dump(_to_json([*families.to_metrics(), *own]), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(render(families, own))
    for name in collector.report.unreadable:
        sys.stderr.write(f"wsgi_prom: {name} could not be read and was left out\n")
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
