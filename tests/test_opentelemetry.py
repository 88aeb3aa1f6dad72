"""OpenTelemetry's names: docs/opentelemetry.md as it stands, what a page and OTLP show, and what stays."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import documents
import live
import pushed
import pytest
import queries
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from processes import Child, share
from prometheus_client import REGISTRY

from wsgi_prom import PrometheusMiddleware, set_route
from wsgi_prom.exporter.page_cache import Pages
from wsgi_prom.exporter.target import Target
from wsgi_prom.metrics import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT = (live.ROOT / "docs" / "opentelemetry.md").read_text()
BLOCKS = documents.blocks(TEXT)
RANGE = 6


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["PATH_INFO"] != "/":
        set_route(environ, "/r")
    start_response(environ["PATH_INFO"][1:] or "404", [])
    return [b"body"]


def record(shared: Path, requests: list[tuple[str, str]], keywords: dict[str, Any]) -> None:
    """Serve *requests*, of each its method and path, through a middleware with *keywords*."""
    share(shared)
    measured: Any = PrometheusMiddleware(app, **keywords)
    for method, path in requests:
        measured({"REQUEST_METHOD": method, "PATH_INFO": path}, lambda *_: None)


def page(shared: Path, requests: list[tuple[str, str]], **keywords: Any) -> live.Samples:
    """Return the samples of a page after *requests*."""
    with Child(record) as child:
        child.call(shared, requests, keywords)
        pages = Pages(shared, REGISTRY, Target())
        return live.parse_samples(pages.page(time.monotonic()).content.decode())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[documents.Reader]:
    for block in BLOCKS:
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
    with documents.network() as network:
        found = documents.Reader(tmp_path, live.BIN, network)
        try:
            yield found
        finally:
            found.stop()


def test_the_blocks_of_the_page(reader: documents.Reader) -> None:
    """The commands run as they stand, and print what the page shows; there is an application and a query beside them."""
    assert ["python", "console", "promql"] == [block.language for block in BLOCKS]
    for command, shown in documents.steps(BLOCKS[1].text):
        printed = reader.type(command)
        assert documents.matches(shown, printed), printed


def test_the_tables_of_the_page() -> None:
    """The tables have all names of the conventions that are shown, and what they are in place of."""
    names = NAMES["otel"]
    assert names.dotted == {
        name: dotted for dotted, name in re.findall(r"^\| `([a-z_.]+)` \| `(\w+)` \|", TEXT, re.MULTILINE)
    }
    assert names.metrics == {
        ours: name for name, ours in re.findall(r"\| `(http_server\w+)` \| `(http_re\w+)` \|", TEXT)
    }


def test_a_page(shared: Path) -> None:
    """
    A method that is not registered is _OTHER, a request without a route has an empty one, a status of 500 or more is an error.
    Each method and route has 500 at 0.
    """
    found = page(shared, [("GET", "/200"), ("GET", "/503"), ("FOO", "/")], names="otel")
    shown = {
        tuple(labels[name] for name in ("http_request_method", "http_route", "http_response_status_code", "error_type")): count
        for labels, count in (
            (dict(labels), count)
            for (name, labels), count in found.items()
            if name == "http_server_request_duration_seconds_count"
        )
    }  # fmt: skip
    assert {
        ("GET", "/r", "200", ""): 1, ("GET", "/r", "503", "503"): 1, ("GET", "/r", "500", "500"): 0,
        ("_OTHER", "", "404", ""): 1, ("_OTHER", "", "500", "500"): 0,
    } == shown  # fmt: skip
    buckets = [
        value
        for (name, labels), value in found.items()
        if name.endswith("_bucket") and ("error_type", "500") in labels
    ]
    assert [0.0] * 30 == buckets


def test_what_has_other_names(shared: Path) -> None:
    """All four metrics have the names of the conventions, with a prefix and more labels as ever; no metric has our labels."""
    keywords = {"names": "otel", "prefix": "shop_", "status_class": True, "labels": {"url_scheme": "https"}}
    found = page(shared, [("GET", "/200")], **keywords)
    of_requests = {name: dict(labels) for (name, labels), _ in found.items() if name.startswith("shop_")}
    expected = {
        *[f"shop_{name}_{part}" for name in NAMES["otel"].metrics.values() for part in ("count", "sum") if "active" not in name],
        "shop_http_server_request_duration_seconds_bucket", "shop_http_server_active_requests", "shop_http_requests_total",
        "shop_http_requests_aborted_total",
    }  # fmt: skip
    assert expected == set(of_requests)
    assert [] == [
        labels for labels in of_requests.values() if not {"method", "route", "status"}.isdisjoint(labels)
    ]
    assert {"url_scheme", "status_class", "le", *list(NAMES["otel"].dotted)[4:8]} == set(
        of_requests["shop_http_server_request_duration_seconds_bucket"]
    )
    by_worker = [value for (name, _), value in found.items() if name == "wsgi_worker_requests_total"]
    assert [1.0] == by_worker


def test_without_the_duration(shared: Path) -> None:
    """A duration that is left out takes its zeros with it, and requests are still counted."""
    found = page(shared, [("GET", "/200")], names="otel", disable=["http_request_duration_seconds"])
    assert [] == [name for name, _ in found if "duration" in name and name.startswith("http")]
    assert 1.0 == sum(value for (name, _), value in found.items() if name == "http_requests_total")


@pytest.mark.parametrize("names", NAMES)
def test_what_a_person_is_shown(names: str, shared: Path) -> None:
    """By whatever names, a person is shown the same routes, errors, durations, and requests in progress."""
    with Child(record) as child:
        child.call(shared, [("GET", "/200"), ("GET", "/503"), ("FOO", "/404")], {"names": names})
        child.call(shared, [("GET", "/")], {"names": names})
        found = Pages(shared, REGISTRY, Target()).figures(time.monotonic())
    other = NAMES[names].other
    assert {("GET", "/r"): (2, 1, 2), (other, "/r"): (1, 0, 1), ("GET", "unmatched"): (1, 0, 1)} == {
        tuple(key): (route.requests, route.errors, route.durations and route.durations.counts[-1])
        for key, route in found.routes.items()
    }
    assert 0.0 == found.in_progress


def test_otlp(shared: Path) -> None:
    """OTLP has the dotted names, units and types of the conventions; the status is a number, and what is empty is absent."""
    with pushed.http() as receiver, Child(record) as child:
        child.call(
            shared, [("GET", "/200"), ("FOO", "/")], {"names": "otel", "labels": {"url_scheme": "https"}}
        )
        assert 0 == pushed.once(shared, "--otlp", receiver.url).returncode
    (resource,) = service.ExportMetricsServiceRequest.FromString(receiver.bodies[0]).resource_metrics
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    duration, active = metrics["http.server.request.duration"], metrics["http.server.active_requests"]
    size = metrics["http.server.response.body.size"]
    assert ("s", "{request}", "By") == (duration.unit, active.unit, size.unit)
    assert (False, [0.0]) == (active.sum.is_monotonic, [point.as_double for point in active.sum.data_points])
    found = {
        frozenset(
            (item.key, item.value.string_value or item.value.int_value) for item in point.attributes
        ): point.count
        for point in duration.histogram.data_points
    }
    scheme = ("url.scheme", "https")
    ok = {("http.request.method", "GET"), ("http.route", "/r"), ("http.response.status_code", 200), scheme}
    other = {("http.request.method", "_OTHER"), ("http.response.status_code", 404), scheme}
    assert (1, 1) == (found[frozenset(ok)], found[frozenset(other)])
    sizes = {(point.count, point.sum, len(point.bucket_counts)) for point in size.histogram.data_points}
    assert {(1, 4.0, 0)} == sizes


def test_the_first_error_is_an_increase(tmp_path: Path) -> None:
    """The query of the page tells the first error of a route that was visited before, in a real Prometheus."""
    (query,) = [block.text for block in BLOCKS if block.language == "promql"]
    with live.uwsgi(app="failing:app", workers=2, WSGI_PROM_NAMES="otel") as server:
        target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
        with queries.prometheus(tmp_path, {target: {}}) as prometheus:
            live.drive(server.url, ["/sometimes", "/never"])
            queries.settle(RANGE + 2)
            live.drive(server.url, ["/sometimes?fail", "/sometimes", "/never"])
            at = queries.settle(3)
            found = prometheus.query(queries.shortened(query, RANGE), at)
    # Prometheus extends what it saw in a range to the whole of it, that of two series each by its own first sample.
    assert {"/sometimes": pytest.approx(0.5, rel=0.3), "/never": 0.0} == {
        sample["metric"]["http_route"]: sample["value"] for sample in found
    }
