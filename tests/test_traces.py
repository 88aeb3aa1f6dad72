"""Exemplars of requests: the trace that a header or OpenTelemetry tells, where the setting asks for it."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wsgi_prom import MetricsApp, PrometheusMiddleware
from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.collector import Collector
from wsgi_prom.request.traces import of_header
from wsgi_prom.store.environment import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
LABELS = {"trace_id": TRACE, "span_id": SPAN}


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]


def request(measured: Any, path: str = "/", **more: str) -> bytes:
    """Return the body of the response of *measured* to a request, with *more* in its environ."""
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "REMOTE_ADDR": "127.0.0.1",
        "wsgi.input": io.BytesIO(), **more,
    }  # fmt: skip
    result = measured(environ, lambda *_: None)
    try:
        return b"".join(result)
    finally:
        getattr(result, "close", int)()


def exemplars(page: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the exemplars of a page in OpenMetrics by the name of their sample: labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(sample.name, []).append((sample.exemplar.labels, sample.exemplar.value))
                if "le" in sample.labels:
                    assert sample.exemplar.value <= float(sample.labels["le"])
    return found


def page(path: Path) -> str:
    return render(Collector(path).collect(), openmetrics=True)


def labels_of(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the labels of the exemplars on a new exporter's page, by the name of their sample."""
    return {name: [labels for labels, _ in found] for name, found in exemplars(page(path)).items()}


@pytest.fixture
def sharing(in_child: Callable[..., Any], shared: Path) -> Callable[..., Any]:
    """Run a function in a process that shares a directory, with the setting on."""

    def run(function: Callable[[], Any]) -> Any:
        def with_settings() -> Any:
            os.environ |= {VARIABLE: str(shared), "WSGI_PROM_EXEMPLARS": "on"}
            return function()

        return in_child(with_settings)

    return run


@pytest.mark.parametrize("value", [
    SAMPLED, f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03", f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes",
])  # fmt: skip
def test_a_header_of_a_sampled_trace_is_read(value: str) -> None:
    """A valid header of a sampled trace gives its ids, of a later version too."""
    assert f'{{"trace_id":"{TRACE}","span_id":"{SPAN}"}}'.encode() == of_header(value)


@pytest.mark.parametrize("value", [
    "", f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-02", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01", f" {SAMPLED}", f"{SAMPLED}\n",
    f"{SAMPLED},{SAMPLED}", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE[1:]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-0\u0661", "x" * 100_000,
    f"01-{TRACE}-{SPAN}-01.more", f'00-{TRACE[2:]}"}}-{SPAN}-01',
])  # fmt: skip
def test_any_other_header_is_none(value: str) -> None:
    """A header that is malformed, or of a trace that is not sampled, gives nothing."""
    assert of_header(value) is None


@settings(max_examples=200)
@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*"))
def test_whatever_a_client_sends_is_two_ids_or_nothing(value: str) -> None:
    """A header is never more than two ids of fixed length."""
    found = of_header(value)
    assert found is None or re.fullmatch(rb'\{"trace_id":"[0-9a-f]{32}","span_id":"[0-9a-f]{16}"\}', found)


def test_a_sampled_request_is_the_exemplar_of_its_bucket_and_counter(
    sharing: Callable[..., Any], shared: Path
) -> None:
    """The trace of a sampled request stands at its bucket of the duration, with the seconds, and at its counter, with 1."""

    def run() -> str:
        measured = PrometheusMiddleware(app)
        request(measured)
        request(measured, HTTP_TRACEPARENT=SAMPLED)
        request(measured, HTTP_TRACEPARENT=f"00-{TRACE[::-1]}-{SPAN}-00")
        request(measured, "/none", HTTP_TRACEPARENT="\ud800" * 3 + '"\n')
        return page(shared)

    found = exemplars(sharing(run))
    assert {"http_requests_total", "http_request_duration_seconds_bucket"} == found.keys()
    assert [(LABELS, 1.0)] == found["http_requests_total"]
    ((labels, seconds),) = found["http_request_duration_seconds_bucket"]
    assert LABELS == labels
    assert 0 < seconds < 10


@pytest.mark.parametrize("kind", ["streamed", "measured twice"])
def test_a_request_is_one_exemplar(sharing: Callable[..., Any], shared: Path, kind: str) -> None:
    """A request has its exemplar where it is counted: not again at the end of its response, nor by a middleware outside."""

    def streaming(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ["wsgi_prom.route"] = "/"
        start_response("200 OK", [("Content-Length", "2")])
        yield b"x"
        yield b"x"
        time.sleep(0.3)

    def run() -> list[Any]:
        inner = PrometheusMiddleware(app, buckets=(0.2,))

        def slow(environ: dict[str, Any], start_response: Any) -> Any:
            found = inner(environ, start_response)
            time.sleep(0.3)
            return found

        measured = PrometheusMiddleware(streaming if kind == "streamed" else slow, buckets=(0.2,))
        request(measured)
        request(measured, HTTP_TRACEPARENT=SAMPLED)
        return labels_of(shared)["http_request_duration_seconds_bucket"]

    assert [LABELS] == sharing(run)


@pytest.mark.parametrize("keyword", [None, False])
def test_the_setting_is_off_by_default(
    in_child: Callable[..., Any], shared: Path, keyword: bool | None
) -> None:
    """Without the setting no request has an exemplar, and no file of texts is made; a keyword wins."""

    def run() -> list[Any]:
        os.environ[VARIABLE] = str(shared)
        if keyword is False:
            os.environ["WSGI_PROM_EXEMPLARS"] = "on"
        measured = PrometheusMiddleware(app, exemplars=keyword)
        request(measured, HTTP_TRACEPARENT=SAMPLED)
        return [exemplars(page(shared)), list(shared.glob("*.texts"))]

    assert [{}, []] == in_child(run)


def test_a_process_alone_shows_exemplars_too(in_child: Callable[..., Any]) -> None:
    """A process that shares no directory shows the traces of its requests on its own page, in OpenMetrics alone."""

    def run() -> list[Any]:
        measured = PrometheusMiddleware(app, exemplars=True)
        request(measured, HTTP_TRACEPARENT=SAMPLED)
        pages = [
            request(MetricsApp(), HTTP_ACCEPT=accept).decode()
            for accept in ("application/openmetrics-text; version=1.0.0", "text/plain")
        ]
        return [exemplars(pages[0])["http_requests_total"], TRACE in pages[1]]

    assert [[(LABELS, 1.0)], False] == in_child(run)


def test_any_number_of_traces_takes_the_space_of_one(sharing: Callable[..., Any], shared: Path) -> None:
    """Requests with ever new traces, one after the other, need no more space and no more memory than the buckets they are in."""

    def run() -> tuple[int, int]:
        measured = PrometheusMiddleware(app)
        for number in range(1, 3000):
            request(measured, HTTP_TRACEPARENT=f"00-{number:032x}-{SPAN}-01")
        counter = exemplars(page(shared))["http_requests_total"]
        assert [{"trace_id": f"{2999:032x}", "span_id": SPAN}] == [labels for labels, _ in counter]
        (file,) = shared.glob("*.texts")
        return file.stat().st_size, len(counter)

    size, counted = sharing(run)
    assert 1 == counted
    assert size <= 8192


OPENTELEMETRY = ["wsgi outside", "wsgi inside", "flask", "django"]


def instrumented(kind: str) -> Any:
    """Return an application of *kind* with OpenTelemetry's own instrumentation, measured; its body is the current span's ids."""
    from opentelemetry import trace
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())

    def ids() -> str:
        context = trace.get_current_span().get_span_context()
        return f"{context.trace_id:032x} {context.span_id:016x}"

    def plain(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [ids().encode()]

    if kind == "wsgi outside":
        return OpenTelemetryMiddleware(PrometheusMiddleware(plain))
    if kind == "wsgi inside":
        return PrometheusMiddleware(OpenTelemetryMiddleware(plain))
    if kind == "flask":
        from flask import Flask
        from opentelemetry.instrumentation.flask import FlaskInstrumentor

        flask = Flask("traced")
        flask.route("/")(ids)
        FlaskInstrumentor().instrument_app(flask)
        flask.wsgi_app = PrometheusMiddleware(flask.wsgi_app)  # type: ignore[method-assign]
        return flask
    import django
    from django.conf import settings as configuration
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    configuration.configure(
        ROOT_URLCONF=(path("", lambda _: HttpResponse(ids())),),
        MIDDLEWARE=["wsgi_prom.frameworks.django.RouteMiddleware"],
        ALLOWED_HOSTS=["*"],
    )
    DjangoInstrumentor().instrument()
    django.setup()
    return PrometheusMiddleware(get_wsgi_application())


@pytest.mark.parametrize("kind", OPENTELEMETRY)
def test_the_current_span_of_opentelemetry_is_the_exemplar(
    sharing: Callable[..., Any], shared: Path, kind: str
) -> None:
    """Whichever of OpenTelemetry's instrumentations makes the request's span, with or without a client's, that is the exemplar."""
    if importlib.util.find_spec("opentelemetry") is None and os.environ.get("CI") != "true":
        pytest.skip("needs opentelemetry")

    def run() -> list[Any]:
        measured = instrumented(kind)
        shown = []
        for more in ({}, {"HTTP_TRACEPARENT": SAMPLED}):
            trace, span = request(measured, **more).decode().split()
            shown.append(
                [{"trace_id": trace, "span_id": span}] == labels_of(shared).get("http_requests_total")
            )
        assert (TRACE, True) == (trace, span != SPAN)
        return shown

    assert [True, True] == sharing(run)


def test_a_span_that_is_not_sampled_is_none(sharing: Callable[..., Any], shared: Path) -> None:
    """A span that OpenTelemetry does not keep is no exemplar, and nothing of ours has imported the library."""
    if importlib.util.find_spec("opentelemetry") is None and os.environ.get("CI") != "true":
        pytest.skip("needs opentelemetry")

    def run() -> list[Any]:
        # Another test of the process may have imported it.
        for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
            del sys.modules[name]
        measured = PrometheusMiddleware(app)
        request(measured)
        request(measured, HTTP_TRACEPARENT=f"00-{TRACE}-{SPAN}-00")
        imported = "opentelemetry" in sys.modules
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider, sampling

        provider = TracerProvider(sampler=sampling.ALWAYS_OFF)
        request(OpenTelemetryMiddleware(measured, tracer_provider=provider))
        return [imported, labels_of(shared)]

    assert [False, {}] == sharing(run)


def test_a_library_that_fails_fails_no_request(sharing: Callable[..., Any], shared: Path) -> None:
    """A broken module of OpenTelemetry's name costs the exemplar, and the failure is counted."""

    def run() -> list[Any]:
        measured = PrometheusMiddleware(app)
        sys.modules["opentelemetry.trace"] = object()  # type: ignore[assignment]
        assert b"x" == request(measured)
        return [labels_of(shared), 'wsgi_prom_errors_total{stage="trace"} 2.0' in page(shared)]

    assert [{}, True] == sharing(run)
