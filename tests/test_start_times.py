"""Start times of rows: since when a series counts, whoever recorded it; they are on no page."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from processes import share
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from test_collector import BUSY, HITS, READS, write_slot
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.client.patch import install
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.settings import Settings
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def starts(path: Path | None) -> dict[str, float]:
    """Return the start time of each child, by its family's name and its label values."""
    return {
        " ".join((family.name, *(value for _, value in labels))): start
        for family in Collector(path).collect()
        for (labels, _), start in zip(family.children, family.starts, strict=True)
    }


def test_the_least_known_start_time_is_that_of_a_series(shared: Path) -> None:
    """A series counts since the first of its sources began, of those that know it; 0 says that none does."""
    write_slot(shared, 0, [(HITS, ("/b",), (1.0,)), (READS, (), (1.0,))], start=1700000001.5)
    write_slot(shared, 1, [(READS, (), (1.0,)), (HITS, ("/b",), (1.0,))], start=1700000000.5)
    write_slot(shared, 2, [(READS, (), (1.0,)), (HITS, ("/a",), (1.0,))], start=0.0)
    write_slot(shared, 3, [(HITS, ("/b",), (1.0,))], start=1700000002.5)
    assert {"hits /b": 1700000000.5, "hits /a": 0.0, "reads": 1700000000.5} == starts(shared)


def test_counts_are_what_they_are_whatever_the_start_times(shared: Path) -> None:
    """Start times add to no value, and an older copy of a slot is found by its counts."""
    write_slot(shared, 0, [(HITS, ("/a",), (2.0,)), (BUSY, (), (3.0,))], start=1700000000.5)
    collector = Collector(shared)
    expected = render(collector.collect())
    (shared / "wsgi_prom.0.values").rename(shared / "kept")
    write_slot(shared, 0, [(HITS, ("/a",), (1.0,)), (BUSY, (), (3.0,))], start=1700000000.0)
    assert [2.0] == [value for family in collector.collect() for value in family.values]
    assert 'hits_total{page="/a"} 2.0' in expected


def test_a_start_time_survives_the_process(in_child: Callable[..., Any], shared: Path) -> None:
    """
    A process that goes on in a slot goes on with the start times of counters; its gauges of living processes are its own.
    What was recorded before a directory was known counts since then.
    """

    def run(late: bool) -> dict[str, float]:
        if not late:
            share(shared)
        install()
        counter = Counter("t_hits", "Help.", registry=None)
        gauge = Gauge("t_busy", "Help.", registry=None, multiprocess_mode="livesum")
        counter.inc()
        between = time.time()
        if late:
            current_slot.attach(shared)
        gauge.set(1)
        return {**starts(shared), "between": between}

    first, second = in_child(run, True), in_child(run, False)
    assert first["t_hits"] == second["t_hits"]
    moments = [first["t_hits"], first["t_busy"], first["between"], second["t_busy"], second["between"]]
    assert sorted(moments) == moments


@pytest.mark.parametrize("disabled", ["true", ""], ids=["disabled", "by default"])
@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("directory", [True, False], ids=["shared", "alone"])
def test_no_format_has_created_lines(
    in_child: Callable[..., Any], shared: Path, accept: str, disabled: str, directory: bool
) -> None:
    """No page has a line `_created`, whatever the client library's setting; a gauge of such a name is one."""

    def run() -> str:
        if directory:
            share(shared)
            install()
        os.environ["PROMETHEUS_DISABLE_CREATED_SERIES"] = disabled
        (
            prometheus_client.disable_created_metrics
            if disabled
            else prometheus_client.enable_created_metrics
        )()
        registry = CollectorRegistry()
        Counter("t_hits", "Help.", registry=registry).inc()
        Summary("t_size", "Help.", ["x"], registry=registry).labels("y").observe(2)
        Histogram("t_wait", "Help.", registry=registry).observe(2)
        Gauge("t_file_created", "Help.", registry=registry, multiprocess_mode="sum").set(5)
        app = MetricsApp(shared if directory else None, registry=registry, settings=Settings())
        return str(Request.blank("/metrics", accept=accept).get_response(app).text)

    lines = [line.split()[0] for line in in_child(run).splitlines() if line.startswith("t_")]
    assert ["t_file_created"] == [line for line in lines if "_created" in line]
    assert {"t_hits_total", 't_size_count{x="y"}', "t_wait_sum"} <= set(lines)
