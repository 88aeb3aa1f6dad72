"""
Metrics of every type with names, texts and numbers that are easily shown wrongly; run as `typed:app`.

Each process records what `record` does, once. The client library alone, in a single process, is the reference: it imports this
module too. Processes are summed where a row of METRICS has no mode.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    StateSetMetricFamily,
    SummaryMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.samples import Exemplar

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

INF, NAN = float("inf"), float("nan")
HOSTILE = 'a "quoted" \\n \\ back\\slash\nline \u00e9\u7a7a'

# The class, the name, the help, more arguments, and the calls: labels, the method, its arguments.
Call = tuple[dict[str, str], str, tuple[Any, ...]]
METRICS: list[tuple[Any, str, str, dict[str, Any], list[Call]]] = [
    # Units, within the name and behind it.
    (Counter, "t_paid", "Paid.", {"unit": "euros"}, [({}, "inc", (2.5,))]),
    (Counter, "t_sent_bytes_total", "Sent.", {"unit": "bytes", "labelnames": ["to"]}, [({"to": "a"}, "inc", (3,))]),
    (Gauge, "t_size", "Size.", {"unit": "bytes", "multiprocess_mode": "sum"}, [({}, "inc", (4,))]),
    (Summary, "t_took", "Took.", {"unit": "seconds", "namespace": "n", "subsystem": "s"}, [({}, "observe", (0.25,))]),
    (Histogram, "t_waited", "Waited.", {"unit": "seconds", "labelnames": ["z", "a"]},
     [({"a": "1", "z": "2"}, "observe", (0.25,)), ({"z": "2", "a": "1"}, "observe", (7,))]),
    (Counter, "t_odd_unit", "Not a unit that every page can have.", {"unit": "\u00b5s"}, [({}, "inc", (1,))]),
    # Texts.
    (Counter, "t_help", HOSTILE, {"labelnames": ["text"]},
     [({"text": HOSTILE}, "inc", (1,)), ({"text": ""}, "inc", (1,)), ({"text": "\n"}, "inc", (1,))]),
    (Counter, "t_no_help", "", {}, [({}, "inc", (1,))]),
    (Counter, "t_help_ends", 'a newline"\n', {}, [({}, "inc", (1,))]),
    # Names.
    (Counter, "t.orders.\u00fcber", "Dots.", {"labelnames": ["kunde.name", "gr\u00f6\u00dfe", "plain"]},
     [({"kunde.name": "k", "gr\u00f6\u00dfe": "g", "plain": "p"}, "inc", (1,))]),
    (Counter, "t_plain", "A plain name and an odd label.", {"labelnames": ["x.y"]}, [({"x.y": "z"}, "inc", (1,))]),
    (Counter, "t_ideographs", "A name that has two underscores on a page.", {"labelnames": ["\u7a7a\u9593"]},
     [({"\u7a7a\u9593": "1"}, "inc", (1,))]),
    (Gauge, "t/\u7a7a", "Slash.", {"multiprocess_mode": "livesum"}, [({}, "inc", (1,))]),
    (Summary, "t summary", "Space.", {"labelnames": ["a b"]}, [({"a b": "c"}, "observe", (1,))]),
    (Histogram, "t.wait", "Dots.", {"unit": "seconds", "labelnames": ["m.n", "zone"], "buckets": [1]},
     [({"m.n": "1", "zone": "2"}, "observe", (1,))]),
    (Counter, "9t", "A digit.", {"labelnames": ["9l"]}, [({"9l": "1"}, "inc", (1,))]),
    (Counter, 't"q\\', "Quotes.", {"labelnames": ['l"q\\']}, [({'l"q\\': "1"}, "inc", (1,))]),
    (Counter, "t:rule:sum", "Colons.", {}, [({}, "inc", (1,))]),
    (Counter, "T__x_", "Underscores.", {"labelnames": ["a__b", "_"]}, [({"a__b": "1", "_": "2"}, "inc", (1,))]),
    (Info, "t.build", "Info.", {"labelnames": ["app.name"]}, [({"app.name": "a"}, "info", ({"v.r": "1", "b": "2"},))]),
    (Enum, "t.state", "Enum.", {"states": ["up", "d\u00f6wn"]}, [({}, "state", ("d\u00f6wn",))]),
    (Enum, "t_phase", "Enum.", {"states": ["up", "down"], "labelnames": ["a", "z"]},
     [({"a": "1", "z": "2"}, "state", ("down",))]),
    # Numbers.
    *[(Counter, f"t_counter_{name}", "C.", {}, [({}, "inc", (value,))]) for name, value in (
        ("2_53", 2.0**53), ("2_62", 2**62), ("1e22", 1e22), ("million", 500_000), ("below", 499_999.75), ("above", 1_234_567.125),
        ("least", 5e-324), ("small", 1.5e-7), ("tenth", 0.1), ("largest", 1.7976931348623157e308), ("inf", INF), ("nan", NAN),
        ("minus_zero", -0.0),
    )],
    *[(Gauge, f"t_gauge_{mode}_{name}", "G.", {"multiprocess_mode": mode}, [({}, "set", (value,))])
      for mode in ("min", "max", "livemin", "livemax", "mostrecent", "livemostrecent")
      for name, value in (("nan", NAN), ("inf", INF), ("minus_inf", -INF), ("minus_zero", -0.0), ("least", -5e-324),
                          ("1e22", -1e22), ("million", 1e6))],
    (Gauge, "t_gauge_nan", "G.", {"multiprocess_mode": "sum"}, [({}, "set", (NAN,))]),
    (Gauge, "t_gauge_inf", "G.", {"multiprocess_mode": "sum"}, [({}, "set", (-INF,))]),
    (Gauge, "t_gauge_dec", "G.", {"multiprocess_mode": "sum"}, [({}, "inc", (1e16,)), ({}, "dec", (2e16,))]),
    *[(Histogram, f"t_histogram_{name}", "H.", {}, [({}, "observe", (value,)), ({}, "observe", (1,))])
      for name, value in (("nan", NAN), ("inf", INF), ("minus_inf", -INF), ("zero", -0.0), ("least", 5e-324), ("1e22", 1e22))],
    *[(Summary, f"t_summary_{name}", "S.", {}, [({}, "observe", (value,)), ({}, "observe", (1,))])
      for name, value in (("nan", NAN), ("inf", INF), ("minus_inf", -INF), ("zero", -0.0), ("least", 5e-324), ("2_53", 2**53))],
    (Summary, "t_summary_both_inf", "S.", {}, [({}, "observe", (INF,)), ({}, "observe", (-INF,))]),
    (Histogram, "t_negative", "Bounds below 0, beside which there is no sum.", {"buckets": [-1, 0, 1]},
     [({}, "observe", (-2,)), ({}, "observe", (0.5,))]),
    (Histogram, "t_bounds", "Bounds.", {"buckets": ["5e-324", 1e-7, 0.1, 1, 1e6, 2**53, 1e22, INF]},
     [({}, "observe", (1e6,)), ({}, "observe", (1e23,))]),
]  # fmt: skip


class Collected:
    """A custom collector of each type, asked once for the application."""

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterable[Any]:
        gauge = GaugeMetricFamily("c.gauge", HOSTILE, labels=["x.y", "b"], unit="seconds")
        gauge.add_metric(["1", HOSTILE], 2**53, timestamp=1.5)
        gauge.add_metric(["2", ""], -0.0)
        yield gauge
        counter = CounterMetricFamily("c_counted", "C.", labels=["a"], unit="bytes")
        counter.add_metric(["1"], 3, exemplar=Exemplar({"id": "2"}, 1, 12.25))
        yield counter
        histogram = HistogramMetricFamily("c_histogram", "H.", labels=["z", "a"])
        histogram.add_metric(["1", "2"], [("1.0", 1, Exemplar({"id": "1"}, 0.5)), ("+Inf", 2)], 5)  # type: ignore[list-item]
        yield histogram
        yield GaugeHistogramMetricFamily("c_sizes", "GH.", buckets=[("1.0", 4), ("+Inf", 5)], gsum_value=7)
        yield SummaryMetricFamily("c_summary", "S.", count_value=4, sum_value=NAN)
        yield UnknownMetricFamily("c_unknown", "U.", value=INF)
        yield InfoMetricFamily("c.info", "I.", value={"a.b": "1"})
        yield StateSetMetricFamily("c_states", "S.", value={"up": True, "down": False})
        yield GaugeMetricFamily("c_odd", "A unit that no page has.", 1, unit="a b")


registry = CollectorRegistry()
made = [
    (kind(name, text, registry=registry, **options), calls) for kind, name, text, options, calls in METRICS
]
registry.register(Collected())


def record() -> None:
    for metric, calls in made:
        for labels, method, arguments in calls:
            getattr(metric.labels(**labels) if labels else metric, method)(*arguments)


_lock = threading.Lock()
_recorded: set[int] = set()


def app(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    pid = os.getpid()
    with _lock:
        if pid not in _recorded:
            _recorded.add(pid)
            record()
    time.sleep(0.05)  # another request meanwhile is for another process
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % pid]
