"""Names as pages have them: in each escaping what the client library writes, two names that are one there, units, counters that are large."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, validation
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as library
from prometheus_client.utils import floatToGoString
from test_answers import families, record
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.client import patch
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.names import ESCAPINGS, UNDERSCORES, UTF8, label_name, metric_name
from wsgi_prom.settings import Settings
from wsgi_prom.store import schemas
from wsgi_prom.store.current_slot import current_slot
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.version import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LETTERS = st.one_of(
    st.sampled_from('a9_:. -\u00e9\u7a7a\U0001f600"\\'), st.characters(exclude_categories=["Cs"])
)


@pytest.mark.skipif(not hasattr(library, "ALLOWUTF8"), reason="the client library escapes names from 0.23 on")
@pytest.mark.parametrize("escaping", sorted(set(ESCAPINGS) - {UTF8}))
@given(name=st.text(LETTERS, min_size=1, max_size=8).filter(lambda name: not name.endswith("\n")))
def test_names_are_escaped_as_the_library_does(escaping: str, name: str) -> None:
    """Of any characters, for metrics and for labels."""
    assert library.escape_metric_name(name, escaping) == metric_name(name, escaping)
    if not name.startswith("__"):
        assert library.escape_label_name(name, escaping) == label_name(name, escaping)


def lines(page: str) -> list[str]:
    return [line for line in page.splitlines() if line[0] != "#"]


def page(path: Path, escaping: str) -> list[str]:
    """Return the samples of the page that a client gets, without most of the exporter's own."""
    headers = {"Accept": f"text/plain;version=1.0.0;escaping={escaping}"}
    answer = Request.blank("/", headers=headers).get_response(MetricsApp(path, settings=Settings()))
    return [line for line in lines(answer.text) if not re.match(r"wsgi_(?!prom_(build|confl))", line)]


def test_two_names_that_are_one_on_a_page(shared: Path, recording: Callable[..., Any]) -> None:
    """A client that reads any name gets both; of others, the first that was met, and the count of what was left out."""

    def work() -> list[list[str]]:
        registry = CollectorRegistry()
        for name in ("a.b", "a_b", "wsgi_prom.build_info"):
            Gauge(name, "G", registry=registry, multiprocess_mode="sum").set(1)
        labelled = Counter("c", "C", ["l.m", "l_m"], registry=registry)
        labelled.labels("1", "2").inc()
        return [page(shared, escaping) for escaping in (UTF8, UNDERSCORES)]

    assert [
        [
            '{"a.b"} 1.0', "a_b 1.0", 'c_total{"l.m"="1",l_m="2"} 1.0', '{"wsgi_prom.build_info"} 1.0',
            f'wsgi_prom_build_info{{version="{installed()}"}} 1.0', "wsgi_prom_conflicting_metrics 0.0",
        ],
        ["a_b 1.0", "wsgi_prom_build_info 1.0", "wsgi_prom_conflicting_metrics 2.0"],
    ] == recording(work)  # fmt: skip


def test_an_info_has_each_label_once(recording: Callable[..., Any], shared: Path) -> None:
    """Its labels are no part of the metric: of two that are one on a page, the first in order is shown."""
    labels = {"a.b": "1", "a_b": "2", "c": "3"}

    def work() -> list[list[str]]:
        Info("i", "I", registry=None).info(labels)
        return [
            lines(render(Collector(shared).collect(), escaping=escaping)) for escaping in (UTF8, UNDERSCORES)
        ]

    assert [['i_info{"a.b"="1",a_b="2",c="3"} 1.0'], ['i_info{a_b="1",c="3"} 1.0']] == recording(work)


def test_names_of_collectors_are_escaped(recording: Callable[..., Any]) -> None:
    """What a collector has told is escaped as well, and its two names that are one are not both shown."""
    twins = InfoMetricFamily("x.y", "X", {"v": "1"})
    found = families(("0", record("c", "", GaugeMetricFamily("x_y_info", "X", 1), twins)))
    assert ['{"x.y_info",v="1"} 1.0', "x_y_info 1.0"] == lines(render(found, escaping=UTF8))
    assert ['x_y_info{v="1"} 1.0'] == lines(render(found))


@pytest.fixture
def legacy_validation() -> Iterator[None]:
    """The library refuses names that are not plain, as with PROMETHEUS_LEGACY_NAME_VALIDATION."""
    validation.enable_legacy_validation()
    yield
    validation.disable_legacy_validation()


@pytest.mark.usefixtures("legacy_validation")
def test_an_exporter_shows_what_an_application_was_allowed_to_name(
    recording: Callable[..., Any], shared: Path
) -> None:
    """Names are the application's, whatever the exporter's environment says of new ones; its own checks hold in the application."""

    def work() -> list[list[str]]:
        with pytest.raises(ValueError, match="metric name"):
            Counter("c.d", "C", registry=None)
        validation.disable_legacy_validation()
        Counter("c.d", "C", registry=None).inc()
        validation.enable_legacy_validation()
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return [
            lines(render(Collector(shared).collect())),
            [sample.name for metric in registry.collect() for sample in metric.samples],
        ]

    assert [["c_d_total 1.0"], ["c.d_total"]] == recording(work)
    told = record("c", "", GaugeMetricFamily("g", "G", 1))
    told.families[0] = told.families[0]._replace(name="g.h")
    assert '{"g.h"}' not in render(families(("0", told)), escaping=UTF8)
    assert "# TYPE g_h gauge" in render(families(("0", told)))


def test_a_unit_is_shown_if_any_process_has_it(recording: Callable[..., Any], shared: Path) -> None:
    """It is all processes', also of those that run a version of the application without one."""

    def work() -> list[str]:
        other = SharedSlot.claim(shared)
        columns, first = other.row(schemas.counter("told_seconds", "T", ()), ())
        columns[first] = 1.0
        Counter("told", "T", unit="seconds", registry=None).inc()
        return [
            line
            for line in render(Collector(shared).collect(), openmetrics=True).splitlines()
            if "UNIT" in line
        ]

    assert ["# UNIT told_seconds seconds"] == recording(work)


def test_metrics_that_exist_before_the_installation_have_their_unit(shared: Path, in_child: Any) -> None:
    """So do labelled ones that have no child yet, and one that is made again without it."""

    def work() -> list[str]:
        early = Counter("early", "E", unit="bytes", registry=None)
        labelled = Histogram("late", "L", ["a"], unit="seconds", registry=None)
        patch.install()
        current_slot.attach(shared)
        early.inc()
        labelled.labels("x").observe(1)
        for unit in ("bytes", ""):
            Gauge("again_bytes", "A", unit=unit, registry=None, multiprocess_mode="sum").inc()
        page = render(Collector(shared).collect(), openmetrics=True)
        return [line for line in page.splitlines() if line.startswith("# UNIT")]

    assert [
        "# UNIT again_bytes bytes",
        "# UNIT early_bytes bytes",
        "# UNIT late_seconds seconds",
    ] == in_child(work)


def test_counters_beyond_what_a_float_counts_do_not_go_back(shared: Path, in_child: Any) -> None:
    """Beyond 2**53 a process's ones are lost in it, as in the library, and the total of several never sinks."""

    def totals() -> tuple[list[float], str]:
        rows = [SharedSlot.claim(shared).row(schemas.counter("c", "C", ()), ()) for _ in range(3)]
        collector = Collector(shared)
        found = []
        amounts = (2.0**53, 1.0, 1.0, 0.1, 3.0, 2.0**60, 1.0, 0.7)
        for number, amount in enumerate(amounts * 3):
            columns, first = rows[number % 3]
            columns[first] += amount
            (family,) = collector.collect()
            found += family.values
        return found, lines(render(collector.collect()))[0]

    found, line = in_child(totals)
    assert sorted(found) == found
    assert f"c_total {floatToGoString(found[-1])}" == line
    assert "c_total 3.485786111584764e+18" == line


def test_the_extremes_of_gauges_leave_out_nan(shared: Path, in_child: Any) -> None:
    """A worker that knows no value, NaN, takes none from the others: as min() and max() of Prometheus."""

    def shown(mode: str) -> list[str]:
        for value in (float("nan"), 3.0, float("nan")):
            columns, first = SharedSlot.claim(shared).row(schemas.gauge(f"g_{mode}", "G", (), mode), ())
            columns[first], columns[first + 1] = value, 1.0
        return lines(render(Collector(shared).collect()))

    assert ["g_max 3.0"] == in_child(shown, "max")


def test_an_infinite_sum_is_no_reason_for_nan(
    recording: Callable[..., Any], shared: Path, in_child: Any
) -> None:
    """What the next owner of a slot adds to an infinite sum of the former one leaves it infinite."""

    def work(values: tuple[float, ...]) -> list[str]:
        gauge = Gauge("g", "G", multiprocess_mode="sum", registry=None)
        counter = Counter("c", "C", registry=None)
        histogram = Histogram("h", "H", buckets=[1], registry=None)
        for value in values:
            gauge.set(value)
            counter.inc(value)
            histogram.observe(value)
        return lines(render(Collector(shared).collect()))

    infinite = float("inf")
    first = [
        "c_total +Inf",
        "g +Inf",
        'h_bucket{le="1.0"} 0.0',
        'h_bucket{le="+Inf"} 1.0',
        "h_count 1.0",
        "h_sum +Inf",
    ]
    assert first == recording(lambda: work((infinite,)))
    then = [
        "c_total +Inf",
        "g +Inf",
        'h_bucket{le="1.0"} 1.0',
        'h_bucket{le="+Inf"} 3.0',
        "h_count 3.0",
        "h_sum +Inf",
    ]
    assert then == recording(lambda: work((infinite, 1.0)))
