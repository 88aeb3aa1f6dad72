"""The page: formats by the Accept header, compression, filters, and what independent parsers make of it."""

from __future__ import annotations

import gzip
import socket
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import live
import pytest
import queries
import servers
from prometheus_client import CollectorRegistry, Counter, PlatformCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, UnknownMetricFamily
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from webob import Request

from wsgi_prom import MetricsApp
from wsgi_prom.exporter.app import ExporterApp
from wsgi_prom.exporter.exposition import render
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from webob import Response

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# With the escaping of names, which a client that says the version is told, as the client library does.
UNDERSCORES = "; escaping=underscores"
UTF8 = "; escaping=allow-utf-8"

ACCEPTS = {
    "": TEXT,
    "*/*": TEXT,
    "text/plain": TEXT,
    "text/plain;version=0.0.4": TEXT,
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": TEXT,
    "image/png": TEXT,
    "garbage;;;": TEXT,
    "application/openmetrics-text": OPENMETRICS,
    "application/openmetrics-text; version=1.0.0; charset=utf-8": OPENMETRICS + UNDERSCORES,
    "application/openmetrics-text;escaping=allow-utf-8": OPENMETRICS,
    "application/openmetrics-text;escaping=allow-utf-8; version=1.0.0": OPENMETRICS + UTF8,
    "application/openmetrics-text;version=1.0.0;escaping=dots": OPENMETRICS + "; escaping=dots",
    "application/openmetrics-text;version=1.0.0;escaping=none": OPENMETRICS + UNDERSCORES,
    "text/plain;version=1.0.0;escaping=values;charset=utf-8": TEXT.replace("0.0.4", "1.0.0")
    + "; escaping=values",
    "text/plain;version=0.0.4;escaping=allow-utf-8": TEXT,
    "application/openmetrics-text;q=0, text/plain": TEXT,
    "application/openmetrics-text;q=0.2, text/plain;q=0.7": TEXT,
    "text/plain;q=0.3, application/openmetrics-text;q=0.9": OPENMETRICS,
    "application/openmetrics-text; version=0.0.1": TEXT,
    # Prometheus 2.42 and 3.0.
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1": OPENMETRICS + UNDERSCORES,
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": OPENMETRICS
    + UTF8,
}


@pytest.fixture
def app() -> MetricsApp:
    """A process that shares no directory, with one metric of its own."""
    registry = CollectorRegistry()
    Counter("orders_total", "Orders taken.", ["kind"], registry=registry).labels("a").inc(3)
    return MetricsApp(registry=registry)


def ask(app: object, path: str = "/metrics", **headers: str) -> Response:
    return Request.blank(
        path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    ).get_response(app)


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_format_is_chosen_by_quality(accept: str, app: MetricsApp) -> None:
    """Text or OpenMetrics, as the Accept header prefers, and text where it leaves the choice."""
    answer = ask(app, **({"Accept": accept} if accept else {}))
    assert (200, ACCEPTS[accept]) == (answer.status_code, answer.headers["Content-Type"])
    parse = (
        openmetrics_parser.text_string_to_metric_families
        if ACCEPTS[accept].startswith(OPENMETRICS)
        else text_string_to_metric_families
    )
    found = {sample.name: sample.value for family in parse(answer.text) for sample in family.samples}
    assert found["orders__total" if "=dots" in ACCEPTS[accept] else "orders_total"] == 3


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("gzip, deflate, br", True), ("gzip;q=0", False), ("identity", False), ("*", True), ("br", False),
     ("identity;q=1, gzip;q=0.5", False)],
)  # fmt: skip
def test_gzip_is_used_where_it_is_preferred(accepted: str, compressed: bool, app: MetricsApp) -> None:
    """Content-Encoding gzip by quality, and the same page inside."""
    answer = ask(app, Accept_Encoding=accepted)
    assert answer.headers.get("Content-Encoding") == ("gzip" if compressed else None)
    plain = ask(app)
    body = gzip.decompress(answer.body) if compressed else answer.body
    assert samples_of(plain.text) == samples_of(body.decode())
    assert "Content-Encoding" not in plain.headers
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"


def samples_of(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_head_has_the_headers_of_get_and_no_body(app: MetricsApp) -> None:
    """HEAD tells the length of what GET would send."""
    got = ask(app)
    head = Request.blank("/metrics", method="HEAD").get_response(app)
    assert (200, b"") == (head.status_code, head.body)
    assert got.headers["Content-Length"] == head.headers["Content-Length"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO"])
@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready"])
def test_any_other_method_is_405(method: str, path: str, app: MetricsApp) -> None:
    """Only GET and HEAD are answered, and the answer says so."""
    answer = Request.blank(path, method=method).get_response(ExporterApp(app))
    assert (405, "GET, HEAD") == (answer.status_code, answer.headers["Allow"])


def test_a_filter_leaves_the_next_page_whole() -> None:
    """What one scrape asks for is not taken from the metrics that a process always has, such as python_info."""
    registry = CollectorRegistry()
    PlatformCollector(registry)
    app = MetricsApp(registry=registry, settings=Settings())
    for query in ("?name[]=nothing", ""):
        page = Request.blank(f"/{query}").get_response(app).text
    assert "python_info{" in page


def own_metrics() -> list[Metric]:
    """Return metrics of each type that the exporter has of its own, with each kind of value and label."""
    counter = CounterMetricFamily("own", 'Text with "quotes", \\ and\nlines.', labels=["zone", "name"])
    gauge = GaugeMetricFamily("own_now", "Help.", labels=["name"])
    for number, value in enumerate((0, 1, 2.5, 1e6, 1795854704, 1e22, -3, float("nan"), float("inf"))):
        counter.add_metric([str(number), 'a "b" \\ \n'], value)
        gauge.add_metric([f"caf\u00e9 {number}"], value)
    untyped = UnknownMetricFamily("own_odd", "Help.", 4)
    return [counter, gauge, untyped, GaugeMetricFamily("own_plain", "Help.", 5), GaugeMetricFamily("own_none", "", labels=["x"])]  # fmt: skip


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize("names", [(), ("own_total",), ("own", "own_plain"), ("own_none",), ("nothing",)])
def test_the_exporters_own_metrics_are_rendered_as_the_client_library_does(
    openmetrics: bool, names: tuple[str, ...]
) -> None:
    """Line by line, in both formats, whatever is selected."""
    options: Any = {"openmetrics": openmetrics, "names": names}
    assert render((), registry=own_metrics(), **options) == render((), own_metrics(), **options)


def test_names_filter_the_page(app: MetricsApp) -> None:
    """name[] leaves the samples of these names, or of these families."""
    assert {"orders_total"} == samples_of(ask(app, "/metrics?name[]=orders_total").text)
    assert {"orders_total"} == samples_of(ask(app, "/metrics?name[]=orders").text)
    assert set() == samples_of(ask(app, "/metrics?name[]=nothing").text)
    assert ask(app, "/metrics?name[]=%ff").status_code == 400


def test_the_exporters_paths(app: MetricsApp, in_child: Callable[..., Any]) -> None:
    """The page for people, healthy and ready are answered, everything else is not there."""
    exporter = ExporterApp(app)
    paths = "/metrics", "/-/healthy", "/-/ready", "/", "/x"
    # In a process of its own: the page for people keeps its figures, and the metrics of this test, for a while.
    codes = in_child(lambda: {path: ask(exporter, path).status_code for path in paths})
    assert {"/metrics": 200, "/-/healthy": 200, "/-/ready": 200, "/": 200, "/x": 404} == codes


def test_a_directory_that_cannot_be_read_is_not_an_empty_page(tmp_path: Path) -> None:
    """Without its directory the exporter is healthy and not ready, and a scrape fails: no figure is not 0."""
    exporter = ExporterApp(MetricsApp(tmp_path / "gone"))
    codes = [ask(exporter, path).status_code for path in ("/-/healthy", "/-/ready", "/metrics")]
    assert [200, 503, 503] == codes


@pytest.fixture(scope="module")
def server() -> Iterator[live.LiveServer]:
    with live.gunicorn("metered:app", workers=2) as server:
        live.drive(server.url, ["/", "/record?kind=a&v=3", "/stream", "/nowhere", "/fail"] * 20)
        yield server


# Figures of one scrape, and of a moment: two scrapes of an idle server have other ones.
CHANGES_BY_ITSELF = ("wsgi_prom_scrape", "process_", "wsgi_worker_heartbeat_age")


def test_both_formats_parse_to_the_same_samples(server: live.LiveServer) -> None:
    """The OpenMetrics page and the text page of one server hold the same series, and figures that stay the same meanwhile."""
    text = live.request(server.metrics_url).body.decode()
    openmetrics = live.request(server.metrics_url, headers={"Accept": OPENMETRICS}).body.decode()
    found = [
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(page)
            for sample in family.samples
            if not sample.name.startswith(CHANGES_BY_ITSELF)
        }
        for parse, page in (
            (text_string_to_metric_families, text),
            (openmetrics_parser.text_string_to_metric_families, openmetrics),
        )
    ]
    assert found[0] == found[1]
    assert openmetrics.endswith("# EOF\n")


def test_a_prometheus_server_scrapes_it(server: live.LiveServer, tmp_path: Path) -> None:
    """A real Prometheus has the target up, and answers a query with the true total."""
    target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    with queries.prometheus(tmp_path, {target: {}}) as prometheus:
        assert 100 == live.eventually(
            lambda: prometheus.value("sum(http_requests_total)"), lambda found: found == 100
        )
        dropped = prometheus.value("scrape_samples_scraped - scrape_samples_post_metric_relabeling")
    assert 0 == dropped


def test_a_worker_answers_for_all_workers() -> None:
    """MetricsApp inside the application, behind metrics_path, shows the whole server and does not count itself."""
    with live.gunicorn("wrapped:app", workers=3) as server:
        live.drive(server.url, ["/"] * 30)
        pages = [server.get("/metrics") for _ in range(6)]
    counted = [servers.requests_counted(live.parse_samples(page.body.decode())) for page in pages]
    assert [{("/", "200"): 30}] * 6 == counted


def test_an_applications_multiprocess_collector_is_answered() -> None:
    """Code that an application has for the client library's multiprocess mode shows the whole server."""
    with live.gunicorn("collected:app", workers=3) as server:
        live.drive(server.url, ["/"] * 30)
        page = server.get("/own-metrics").body.decode()
    samples = live.parse_samples(page)
    assert servers.value(samples, "app_orders_total") == 30
    assert servers.value(samples, "http_requests_total", method="GET", route="unmatched", status="200") == 30


def test_a_single_process_serves_its_own_metrics() -> None:
    """Without a shared directory, the application's and the process's own metrics are served by the same MetricsApp."""
    code = (
        "from wsgiref.simple_server import make_server; import wrapped\n"
        "server = make_server('127.0.0.1', 0, wrapped.app)\n"
        "print('port', server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with live.LiveServer([sys.executable, "-c", code], ready=(r"port \d+", 1)) as server:
        port = server.wait_for_log(r"port (\d+)")[1]
        url = f"http://127.0.0.1:{port}"
        for _ in range(5):
            live.request(url + "/")
        samples = live.parse_samples(live.request(url + "/metrics").body.decode())
    assert {("/", "200"): 5} == servers.requests_counted(samples)
    assert servers.value(samples, "http_requests_in_progress") == 0
    assert "process_start_time_seconds" in {name for name, _ in samples}
    assert "app_latency_seconds_count" in {name for name, _ in samples}


def test_a_scrape_may_be_slow_to_read_and_others_are_not() -> None:
    """A client that sends its request byte by byte does not keep a good scrape waiting."""
    with live.gunicorn(workers=1) as server:
        host, port = server.metrics_url.removeprefix("http://").removesuffix("/metrics").split(":")
        slow = [socket.create_connection((host, int(port))) for _ in range(20)]
        for connection in slow:
            connection.sendall(b"GET /metrics HT")
        time.sleep(0.1)
        with urllib.request.urlopen(server.metrics_url, timeout=20) as answer:
            status = answer.status
        for connection in slow:
            connection.close()
    assert status == 200
