"""
No text can break out of its line of the page: names, labels and helps of slots, foreign files and the process itself.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from typing import Any

import pytest
from chaos.scale import FULL, scale
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Info
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from test_collector import write_slot
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.exporter.exposition import render
from wsgi_prom.exporter.target import own_metrics
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.names import ESCAPINGS, UNDERSCORES
from wsgi_prom.store import directory, schemas

# Any character, lone surrogates too, and those that mean something to a parser often.
HOSTILE = st.text(
    st.one_of(st.characters(), st.sampled_from('\n\r\\"{}=,# %\u2028\x00\ud800'), st.just("\n"))
)
NAMES = HOSTILE.filter(bool)
QUICK = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))

TEXT = r'"(?:[^"\\\n]|\\.)*"'
PAIR = rf"(?:[a-zA-Z_]\w*|{TEXT})={TEXT}"
LINE = re.compile(
    rf"# (?:HELP|TYPE) (?:[a-zA-Z_:][\w:]*|{TEXT}) .*|"
    rf"[a-zA-Z_:][\w:]*(?:\{{{PAIR}(?:,{PAIR})*\}})? \S+|"
    rf"\{{{TEXT}(?:,{PAIR})*\}} \S+",
    re.ASCII | re.DOTALL,
)


def assert_lines(page: str, samples: int, *, openmetrics: bool, parsed: bool = True) -> None:
    """Assert that every line of *page* is one of ours, and that it has the right number of samples."""
    lines = page.removesuffix("# EOF\n").split("\n")
    assert "" == lines.pop()
    assert [] == [line for line in lines if not LINE.fullmatch(line)]
    assert samples == sum(not line.startswith("# ") for line in lines)
    page.encode()
    parse = parse_openmetrics if openmetrics else parse_text
    # The library's parser knows neither the other escapings nor every text in quotes.
    assert not parsed or samples == sum(len(metric.samples) for metric in parse(page))


@QUICK
@given(
    name=NAMES,
    help_text=HOSTILE,
    label=NAMES,
    values=st.lists(
        HOSTILE, min_size=1, max_size=3, unique_by=lambda v: v.encode("utf-8", "backslashreplace")
    ),
)
@example(name="\n", help_text="\n", label="\n", values=["\n"])
@pytest.mark.parametrize("escaping", ESCAPINGS)
@pytest.mark.parametrize("openmetrics", [False, True])
def test_names_in_a_slot(
    tmp_path_factory: pytest.TempPathFactory,
    openmetrics: bool,
    escaping: str,
    name: str,
    help_text: str,
    label: str,
    values: list[str],
) -> None:
    """Metric names, label names, label values and helps of a slot stay on their line, for every type."""
    shared = tmp_path_factory.mktemp("page") / "shared"
    types = [
        schemas.counter("c" + name, help_text, ("x" + label,)),
        schemas.gauge("g" + name, help_text, ("x" + label,), "sum"),
        schemas.summary("s" + name, help_text, ("x" + label,)),
        schemas.histogram("h" + name, help_text, ("x" + label,), (1.0, float("inf"))),
    ]
    write_slot(shared, 0, [(schema, (value,), (1.0,) * schema.width) for schema in types for value in values])
    families = Collector(shared).collect()
    page = render(families, openmetrics=openmetrics, escaping=escaping)
    assert_lines(page, (1 + 1 + 2 + 4) * len(values), openmetrics=openmetrics, parsed=escaping == UNDERSCORES)
    shutil.rmtree(shared)


@QUICK
@given(
    help_text=HOSTILE,
    values=st.lists(
        HOSTILE, min_size=1, max_size=3, unique_by=lambda v: v.encode("utf-8", "backslashreplace")
    ),
)
@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("whose", ["own", "registry"])
def test_names_in_the_processs_own_metrics(
    whose: str, openmetrics: bool, help_text: str, values: list[str]
) -> None:
    """Metrics of the exporter and of a process's registry, which the client library renders, stay on their lines."""
    counter = CounterMetricFamily("own", help_text, labels=["x"])
    gauge = GaugeMetricFamily("own_now", help_text, labels=["x"])
    for value in values:
        counter.add_metric([value], 1)
        gauge.add_metric([value], 1)
    page = render(Collector(None).collect(), **{whose: [counter, gauge]}, openmetrics=openmetrics)
    assert_lines(page, 2 * len(values), openmetrics=openmetrics)


def test_a_process_shows_what_it_was_told(openmetrics_accept: str = "application/openmetrics-text") -> None:
    """An Info with a lone surrogate, as WSGI servers make of some header bytes, does not fail the page."""
    registry = CollectorRegistry()
    Info("t_client", "Help.", registry=registry).info({"agent": "caf\udce9"})
    for accept in ("text/plain", openmetrics_accept):
        answer = Request.blank("/metrics", headers={"Accept": accept}).get_response(
            MetricsApp(registry=registry)
        )
        assert 200 == answer.status_code
        assert "t_client_info" in answer.text


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), HOSTILE, st.sampled_from(["le", "nan", "1.0"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(HOSTILE, inner, max_size=3)),
    max_leaves=8,
)
BOUNDS = st.one_of(
    st.sampled_from(["1.0", "+Inf", "nan", "-inf", "", "1e999"]), st.integers(), HOSTILE, st.none()
)
LABELS = st.one_of(
    JSON,
    st.dictionaries(HOSTILE, st.one_of(HOSTILE, st.integers(), st.none()), max_size=3),
    st.fixed_dictionaries({"le": BOUNDS}, optional={"x": HOSTILE}),
)
SUFFIXES = st.sampled_from(["", "_total", "_bucket", "_sum", "_count"])
KEYS = st.one_of(
    JSON,
    st.tuples(st.one_of(HOSTILE, JSON), st.one_of(HOSTILE, JSON), LABELS, st.one_of(HOSTILE, JSON)),
    st.builds(
        lambda name, suffix, labels, text: [name, name + suffix, labels, text],
        HOSTILE,
        SUFFIXES,
        LABELS,
        HOSTILE,
    ),
)
FILES = [
    "counter_1.db",
    "gauge_all_1.db",
    "gauge_livemostrecent_1.db",
    "gauge_min_1.db",
    "summary_1.db",
    "histogram_1.db",
]


@settings(QUICK, max_examples=500 if scale is FULL else 150)
@given(keys=st.lists(KEYS, min_size=1, max_size=3), file=st.sampled_from(FILES))
@example([["m", "m_bucket", {"le": 10**400}, "h"]], "histogram_1.db")
@example([["m", "m_bucket", {"le": "nan"}, "h"], ["m", "m_bucket", {"le": "1"}, "h"]], "histogram_1.db")
@example([["", "_total", {}, "h"]], "counter_1.db")
@example([["m", "m_total", {"": "x"}, "h"]], "counter_1.db")
@example([["m", "m_total", {"a b": "x", "a_b": "x"}, "h"]], "counter_1.db")
@example([["a b", "m_total", {}, "h"], ["a-b", "m_total", {}, "h"]], "counter_1.db")
@example([["m", "m_total", {"x\n": "x"}, "h\nevil 1"]], "counter_1.db")
@example([["m", "m_sum", {"le": "1"}, "h"], ["m", "m_bucket", {"le": "2"}, "h"]], "histogram_1.db")
@example([["m", "m_sum", {"quantile": "1"}, "h"]], "summary_1.db")
def test_hostile_keys_of_the_librarys_own_files(
    tmp_path_factory: pytest.TempPathFactory, keys: list[Any], file: str
) -> None:
    """
    A file of the client library's format with arbitrary keys is shown or left out, and good files are shown beside it.
    """
    shared = tmp_path_factory.mktemp("files") / "shared"
    write_slot(shared, 0, [(schemas.counter("good", "Help.", ("x",)), ("y",), (1.0,))])
    found = MmapedDict(str(shared / file))
    for key in keys:
        found.write_value(json.dumps(key), 1.0, 2.0)
    found.close()
    collector = Collector(shared)
    families = collector.collect()
    assert collector.report.unreadable in ((), (file,))
    for openmetrics in (False, True):
        page = render(families, own_metrics(collector.report), openmetrics=openmetrics)
        assert 'good_total{x="y"} 1.0\n' in page
        lines = page.removesuffix("# EOF\n").split("\n")
        assert "" == lines.pop()
        assert [] == [line for line in lines if not LINE.fullmatch(line)]
        # Prometheus takes a label that begins so, the parser does not.
        assert re.search("[{,]__", page) or list((parse_openmetrics if openmetrics else parse_text)(page))
    shutil.rmtree(shared)


@QUICK
@given(used=st.integers(-(2**31), 2**31 - 1), rest=st.binary(max_size=200), padded=st.booleans())
@example(used=2**31 - 1, rest=struct.pack("ii", 0, 2**31 - 1), padded=True)
def test_hostile_sizes_in_the_librarys_own_files(
    tmp_path_factory: pytest.TempPathFactory, used: int, rest: bytes, padded: bool
) -> None:
    """A file that claims any size is left out or read as far as it goes, within the memory that it takes up itself."""
    shared = tmp_path_factory.mktemp("files") / "shared"
    directory.prepare(shared)
    (shared / "counter_1.db").write_bytes((struct.pack("i", used) + rest).ljust(5000 if padded else 0, b"\0"))
    collector = Collector(shared)
    render(collector.collect(), own_metrics(collector.report))
    shutil.rmtree(shared)
