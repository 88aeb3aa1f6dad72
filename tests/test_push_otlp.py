"""OTLP: what a receiver decodes, what it may answer, and whose metrics they are."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import live
import pushed
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from opentelemetry.proto.metrics.v1 import metrics_pb2

from wsgi_prom.push.login import Login
from wsgi_prom.push.otlp import Otlp, resource
from wsgi_prom.push.reading import Sample
from wsgi_prom.push.sender import PushError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CUMULATIVE = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE


@pytest.fixture
def receiver() -> Iterator[pushed.Http]:
    with pushed.http() as found:
        yield found


def send(url: str, *metrics: Any, seconds: float = 10.0) -> None:
    otlp = Otlp(url, Login(), {"service.name": "shop"}, seconds)
    otlp.send(pushed.reading(*metrics), threading.Event())


def texts(attributes: Any) -> dict[str, str]:
    return {item.key: item.value.string_value for item in attributes}


def decoded(body: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the attributes of the resource, and the metrics by name."""
    (found,) = service.ExportMetricsServiceRequest.FromString(body).resource_metrics
    (scope,) = found.scope_metrics
    assert "wsgi_prom" == scope.scope.name
    return texts(found.resource.attributes), {metric.name: metric for metric in scope.metrics}


def rejected(points: int, message: str) -> bytes:
    answer = service.ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = points
    answer.partial_success.error_message = message
    return answer.SerializeToString()


def test_the_command(shared: Path, receiver: pushed.Http) -> None:
    """
    Sums and histograms are cumulative, with the time since when each label set counts; gauges are as they are. The resource is what
    OpenTelemetry's variables and the options say. A 503 is tried again after its pause, and what is recorded before SIGTERM is sent.
    """
    before = time.time_ns()
    env = {
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,deployment.environment=a%2Cb",
        "OTEL_SERVICE_NAME": "shop",
    }
    receiver.answers += [pushed.Answer("503 Service Unavailable", (("Retry-After", "1"),))]
    with pushed.application(shared) as record:
        record("book", 3, -4.5, [0.2, 9.0])
        options = ["--otlp", receiver.url, "--instance", "web-1", "--interval", "5"]
        with pushed.pushing(shared, *options, **env) as push:
            live.eventually(lambda: len(receiver.bodies), lambda found: found >= 2)
            record("book", 2, 1)
            push.kill(15)
            assert 0 == push.wait()
            log = push.log()
    (environ, first), (_, again), *_, (_, last) = receiver.requests
    attributes, metrics = decoded(last)
    assert ("/v1/metrics", "application/x-protobuf") == (environ["PATH_INFO"], environ["CONTENT_TYPE"])
    assert first == again
    assert {
        "service.name": "shop",
        "service.instance.id": "web-1",
        "deployment.environment": "a,b",
    } == attributes
    orders, wait, balance = (metrics[name] for name in ("shop_orders", "shop_wait_seconds", "shop_balance"))
    (point,) = orders.sum.data_points
    assert (True, CUMULATIVE) == (orders.sum.is_monotonic, orders.sum.aggregation_temporality)
    assert ({"kind": "book"}, 5.0, "Orders.") == (
        texts(point.attributes),
        point.as_double,
        orders.description,
    )
    assert before < point.start_time_unix_nano < point.time_unix_nano < time.time_ns()
    (point,) = wait.histogram.data_points
    assert ("s", CUMULATIVE) == (wait.unit, wait.histogram.aggregation_temporality)
    assert ([0.1, 0.5, 2.5], [0, 1, 0, 1]) == (list(point.explicit_bounds), list(point.bucket_counts))
    assert (2, pytest.approx(9.2), True) == (point.count, point.sum, before < point.start_time_unix_nano)
    assert [1.0] == [point.as_double for point in balance.gauge.data_points]
    assert "0 were not; 0 samples are lost" in log


def test_every_type(receiver: pushed.Http) -> None:
    """A summary has count, sum and quantiles; an Enum is a sum that may go down; an unknown start time is absent."""
    quantile = Sample("size", (("quantile", "0.5"),), 4.0)
    summary = [quantile, Sample("size_count", (), 2.0), Sample("size_sum", (), 7.0)]
    states = [Sample("state", (("state", text),), value) for text, value in (("on", 1.0), ("off", 0.0))]
    send(
        receiver.url,
        pushed.metric("summary", "size", ((("a", "b"),), summary)),
        pushed.metric("stateset", "state", ((), states)),
        pushed.counter("hits", (), 2),
    )
    _, metrics = decoded(receiver.bodies[0])
    (size,) = metrics["size"].summary.data_points
    assert (2, 7.0, [(0.5, 4.0)]) == (
        size.count,
        size.sum,
        [(q.quantile, q.value) for q in size.quantile_values],
    )
    state = metrics["state"].sum
    found = [(texts(point.attributes), point.as_double) for point in state.data_points]
    assert [({"state": "on"}, 1.0), ({"state": "off"}, 0.0)] == found
    assert (False, 0) == (state.is_monotonic, metrics["hits"].sum.data_points[0].start_time_unix_nano)


@pytest.mark.parametrize(
    ("answer", "expected", "lost"),
    [
        (
            pushed.Answer(body=rejected(2, "too\nold")),
            "rejects 2 points (too old)",
            2,
        ),
        (
            pushed.Answer(body=b"<html>hello</html>"),
            "answers with what is none of OTLP's answers. It should be a receiver of OTLP over HTTP, such as http://HOST:4318",
            500,
        ),
        (
            pushed.Answer("400 Bad Request", body=b"\x08\x03\x12\x03bad"),
            "answers 400 (bad). It should be a receiver of OTLP over HTTP, such as http://HOST:4318",
            500,
        ),
    ],
    ids=["partial", "html", "refused"],
)
def test_answers(receiver: pushed.Http, answer: pushed.Answer, expected: str, lost: int) -> None:
    """Points that are rejected, and an answer that is none, are told once and not sent again; the next request goes. Requests are bounded."""
    receiver.answers += [pushed.Answer(), pushed.Answer(), answer]
    many = [((("n", str(n)),), [Sample("many", (), n)]) for n in range(2500)]
    with pytest.raises(PushError) as raised:
        send(f"{receiver.url}v1/metrics", pushed.metric("gauge", "many", *many))
    sizes = [len(decoded(body)[1]["many"].gauge.data_points) for body in receiver.bodies]
    assert ([1000, 1000, 500], lost, True) == (sizes, raised.value.lost, raised.value.lasting)
    assert f"--otlp='{receiver.url}v1/metrics' {expected}" == str(raised.value)


def test_a_resource_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """OpenTelemetry's rule: attributes that are no list of pairs are ignored, all of them, and logged; what is given as an option wins."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "a=b,c", "OTEL_SERVICE_NAME": "named"}
    otherwise = {"service.name": "wsgi", "service.instance.id": "host"}
    assert {"service.name": "named", "service.instance.id": "host"} == resource(environ, {}, otherwise)
    given = {"service.name": "given"}
    assert {**otherwise, **given} == resource({"OTEL_SERVICE_NAME": "named"}, given, otherwise)
    assert ["OTEL_RESOURCE_ATTRIBUTES='a=b,c' is ignored. Give a list of NAME=VALUE"] == caplog.messages
