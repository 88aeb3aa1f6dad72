"""Exemplars of the application's own counters and histograms: the latest of all processes, in OpenMetrics alone."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import prometheus_client
import pytest
from processes import fork
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def exemplars(path: Path) -> dict[str, tuple[dict[str, str], float]]:
    """Return the exemplars of a new exporter's page, as the library's parser reads them: by sample and bound, labels and value."""
    page = render(Collector(path).collect(), openmetrics=True)
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.exemplar is not None:
                assert abs(time.time() - float(sample.exemplar.timestamp)) < 600
                name = sample.name + sample.labels.get("page", "") + sample.labels.get("le", "")
                found[name] = sample.exemplar.labels, sample.exemplar.value
    return found


def test_the_latest_exemplar_of_all_processes_is_shown(recording: Callable[..., Any], shared: Path) -> None:
    """Each counter and bucket has the exemplar that any process has given last, ended or not; others have none."""

    def run() -> list[Any]:
        hits = Counter("hits", "Hits.", ["page"], registry=None)
        taken = Histogram("taken", "Taken.", buckets=(1, 2, 3), registry=None)
        hits.labels("/a").inc(2, exemplar={"trace_id": "a"})
        hits.labels("/b").inc()
        fork(lambda: hits.labels("/a").inc(3.5, {"trace_id": "b"}))
        taken.observe(1.5, {"trace_id": "c"})
        fork(lambda: taken.observe(1.75, {"trace_id": "d"}))
        taken.observe(7, {"trace_id": "e"})
        taken.observe(0.5)
        fork(lambda: taken.observe(1.25))
        return [
            exemplars(shared),
            hits.labels("/a")._value.get_exemplar()[:2],
            hits.labels("/b")._value.get_exemplar(),
        ]

    assert [
        {
            "hits_total/a": ({"trace_id": "b"}, 3.5),
            "taken_bucket2.0": ({"trace_id": "d"}, 1.75),
            "taken_bucket+Inf": ({"trace_id": "e"}, 7.0),
        },
        ({"trace_id": "a"}, 2.0),
        None,
    ] == recording(run)


@pytest.mark.parametrize("value", [0, 0.1 + 0.2, 10**20, math.inf, math.nan])
def test_lines_are_what_the_library_shows_of_one_process(
    recording: Callable[..., Any], shared: Path, value: float
) -> None:
    """The lines of counters and histograms with exemplars are the client library's; the text format has none."""

    def run() -> None:
        prometheus_client.disable_created_metrics()
        registry = CollectorRegistry()
        hits = Counter("hits", "Hits.", ["page"], registry=registry)
        hits.labels("/").inc(value, {"b": 'q"\\\n', "a": "ü"})
        Histogram("taken", "Taken.", buckets=(1, 2), registry=registry).observe(value, {"trace_id": "c"})
        families = Collector(shared).collect()
        library = openmetrics.generate_latest(registry).decode()
        assert set(library.splitlines()) == set(render(families, openmetrics=True).splitlines())
        assert prometheus_client.generate_latest(registry).decode() == render(families)
        assert "# {" not in render(families)
        # An application's own page of all processes.
        merged = CollectorRegistry()
        MultiProcessCollector(merged)
        assert set(library.splitlines()) == set(openmetrics.generate_latest(merged).decode().splitlines())

    recording(run)


def test_what_the_library_refuses_is_refused(recording: Callable[..., Any], shared: Path) -> None:
    """An exemplar that the client library refuses raises as it does there; the increment counts, as there."""

    def run() -> list[Any]:
        hits = Counter("hits", "Hits.", registry=None)
        with pytest.raises(ValueError, match="128"):
            hits.inc(1, {"trace_id": "x" * 129})
        for odd in ({}, None, {"a b": "x", "a_b": "y"}, {"trace_id": "\udc80"}):
            hits.inc(1, odd)
            list(text_string_to_metric_families(render(Collector(shared).collect(), openmetrics=True)))
        return [hits._value.get(), exemplars(shared)]

    assert [5.0, {"hits_total": ({"trace_id": "\\udc80"}, 1.0)}] == recording(run)


def test_a_selection_keeps_its_exemplars(recording: Callable[..., Any], shared: Path) -> None:
    """The filter `name[]` shows the exemplars of what it selects."""

    def run() -> list[str]:
        Histogram("taken", "Taken.", buckets=(1,), registry=None).observe(0.5, {"trace_id": "c"})
        page = render(Collector(shared).collect(), openmetrics=True, names=["taken_bucket"])
        return [line.partition("} 0.5 ")[0] for line in page.splitlines() if line[0] != "#"]

    assert ['taken_bucket{le="1.0"} 1.0 # {trace_id="c"', 'taken_bucket{le="+Inf"} 1.0'] == recording(run)
