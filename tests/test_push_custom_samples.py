"""Samples of custom collectors that are not what their types say: they are left out, and all others are pushed."""

from __future__ import annotations

import math
import socket
import threading
from typing import TYPE_CHECKING, Any

import cramjam
import live
import pushed
import pytest
from exporters import fill
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from wsgi_prom import warning
from wsgi_prom.exporter.target import Target
from wsgi_prom.push.login import Login
from wsgi_prom.push.otlp import Otlp
from wsgi_prom.push.pushgateway import Pushgateway
from wsgi_prom.push.reader import Reader
from wsgi_prom.push.remote_write import RemoteWrite
from wsgi_prom.push.statsd import Statsd
from wsgi_prom.push.write_request import write_request
from wsgi_prom.setting_values import Address

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.push.reading import Reading

SURROGATE = "a\ud800"


def histogram(name: str, buckets: list[tuple[str, float]]) -> Metric:
    found = Metric(name, "H.", "histogram")
    for le, count in buckets:
        found.add_sample(f"{name}_bucket", {"le": le}, count)
    found.add_sample(f"{name}_count", {}, max(count for _, count in buckets))
    return found


def odd() -> list[Metric]:
    """Return metrics with samples that no receiver takes, and how they are to be read if they are."""
    quantile = SummaryMetricFamily("odd_quantile", "S.", count_value=1, sum_value=1)
    quantile.add_sample("odd_quantile", {"quantile": "half"}, 1)
    count = SummaryMetricFamily("odd_count", "S.", count_value=math.nan, sum_value=1)
    number = GaugeMetricFamily("odd_label", "G.")
    number.add_sample("odd_label", {"a": 1}, 1)
    value = GaugeMetricFamily("odd_value", "G.")
    value.add_sample("odd_value", {}, "many")  # type: ignore[arg-type]
    return [
        histogram("odd_bound", [("many", 1), ("+Inf", 1)]),
        histogram("odd_nan_bound", [("nan", 1), ("+Inf", 1)]),
        histogram("odd_surrogate", [(SURROGATE, 1), ("+Inf", 1)]),
        histogram("odd_twice", [("1", 1), ("1.0", 1), ("+Inf", 1)]),
        histogram("odd_falling", [("1", 3), ("+Inf", 1)]),
        histogram("odd_nan", [("1", math.nan), ("+Inf", math.nan)]),
        histogram("odd_endless", [("1", math.inf), ("+Inf", math.inf)]),
        histogram("odd_negative", [("1", -1), ("+Inf", 1)]),
        quantile,
        count,
        number,
        value,
    ]


def good() -> list[Metric]:
    """Return metrics that are unusual, and that a receiver can take."""
    text = GaugeMetricFamily("good_text", SURROGATE, labels=["a"], unit="")
    text.unit = SURROGATE
    text.add_metric([SURROGATE], 1)
    return [
        text,
        GaugeMetricFamily("good_nan", "G.", math.nan),
        CounterMetricFamily("good_hits", "C.", 3),
        histogram("good_order", [("+Inf", 5), ("2", 3), ("1", 1)]),
        histogram("good_short", [("1", 1), ("2", 2)]),
        GaugeMetricFamily("good_last", "G.", 1),
    ]


GOOD = {"good_text", "good_nan", "good_hits", "good_order", "good_short", "good_last"}


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    fill(tmp_path / "shared", 1)
    return Reader(tmp_path / "shared", Target())


def names(reading: Reading) -> set[str]:
    return {metric.name for metric in reading.metrics if metric.name.startswith(("odd_", "good_"))}


def test_what_is_left_out_is_counted(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    """Odd label sets are left out, logged once for each metric, and counted in the readings that follow."""
    warning.told.clear()  # another test may have had them logged
    first = reader.read([*odd(), *good()])
    second = reader.read([*odd(), *good()])
    assert (GOOD, GOOD) == (names(first), names(second))
    failed = [
        value for name, labels, value in second.series
        if (name, labels) == ("wsgi_prom_errors_total", (("stage", "push"),))
    ]  # fmt: skip
    samples = sum(len(metric.samples) for metric in odd())
    assert [float(samples)] == failed
    assert len(odd()) == sum("are not pushed" in line for line in caplog.messages)
    assert (
        "samples of odd_bound are not pushed: a histogram has no such values, labels or buckets"
        in caplog.text
    )


def test_every_receiver_gets_the_others(reader: Reader) -> None:
    """What is good goes to every receiver, with the buckets in their order."""
    reading = reader.read([*odd(), *good()])
    ended = threading.Event()
    with pushed.http() as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(live.START_SECONDS)
        Statsd(Address("127.0.0.1", agent.getsockname()[1])).send(reading, ended)
        RemoteWrite(receiver.url, Login(), {}, 1.0).send(reading, ended)
        Otlp(receiver.url, Login(), {}, 1.0).send(reading, ended)
        Pushgateway(receiver.url, Login(), {"job": "a"}, 1.0).send(reading, ended)
        datagram = agent.recv(65536).decode()
    _, written, points, page = receiver.bodies
    request = write_request()()
    request.ParseFromString(bytes(cramjam.snappy.decompress_raw(written)))
    series = {
        label.value for found in request.timeseries for label in found.labels if label.name == "__name__"
    }
    (resource,) = service.ExportMetricsServiceRequest.FromString(points).resource_metrics
    found: dict[str, Any] = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert "good_last:1|g" in datagram.splitlines()
    assert {"good_last", "good_hits_total", "good_order_bucket", "good_text"} <= series
    assert GOOD == {name for name in found if name.startswith(("odd_", "good_"))}
    (ordered,), (short,) = (found[name].histogram.data_points for name in ("good_order", "good_short"))
    assert ([1.0, 2.0], [1, 2, 2]) == (list(ordered.explicit_bounds), list(ordered.bucket_counts))
    assert ([1.0, 2.0], [1, 1, 0]) == (list(short.explicit_bounds), list(short.bucket_counts))
    assert b"\ngood_last 1.0\n" in page
    assert not [name for name in (*series, *found, datagram, page.decode()) if "odd_" in name]


def test_a_text_of_the_librarys_own_metric(recording: Any, shared: Path) -> None:
    """A lone surrogate in the help of a metric that is no custom collector's is escaped too."""
    recording(lambda: Gauge("own", SURROGATE, registry=CollectorRegistry(), multiprocess_mode="max").set(1))
    (found,) = [metric.help for metric in Reader(shared, Target()).read().metrics if metric.name == "own"]
    assert "a\\ud800" == found
