"""The demo, run as a user runs it, and the functions that judge its numbers."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import urllib.parse
from collections import Counter
from typing import TYPE_CHECKING, Final

import live
import psutil
import pytest
from flask import Flask

from demo.application import add_naive_metrics
from demo.load import CLIENTS, INDEX, NAIVE, SLOW, STREAM, Result, Row, kind_of
from demo.quantile import histogram_quantile
from demo.scrape import Moment, Page, backward, parse
from demo.verdict import Departure, departures, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SERVERS: Final = ["uwsgi", "gunicorn"]
REQUESTS: Final = 400
DEMO_SECONDS: Final = 120.0

# By kind_of: of each hundred, what is sent and counted, however the run goes.
ROWS: Final = {
    "GET / 200": (192, 192),
    "GET /fail 500": (28, 28),
    "GET /stream 200": (20, 20),
    "GET /users/<int:user_id> 200": (120, 120),
    "GET unmatched 404": (32, 32),
    "POST unmatched 405": (4, 4),
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "demo", "--requests", str(REQUESTS), *arguments]


def environment() -> dict[str, str]:
    """Give a terminal of one width, and settings of wsgi_prom and the servers that must not reach the demo's."""
    return {
        **os.environ,
        "COLUMNS": "100",
        "PYTHONPATH": str(live.ROOT),
        "PROMETHEUS_MULTIPROC_DIR": "/nonexistent/shared",
        "WSGI_PROM_BIND": "off",
        "UWSGI_HTTP_SOCKET": "127.0.0.1:1",
        "GUNICORN_CMD_ARGS": "--workers 1",
        "FLASK_DEBUG": "1",
    }


def row(output: str, start: str) -> list[str]:
    """Return the words after *start* of the one line that begins with it."""
    (line,) = [line for line in output.splitlines() if line.startswith(start)]
    return line.removeprefix(start).split()


@pytest.mark.parametrize("kind", SERVERS)
def test_sent_equals_counted_whatever_happens_to_the_workers(kind: str, tmp_path: Path) -> None:
    """The demo exits with 0; it shows exact rows, a killed and a recycled worker, and no counter that went back."""
    done = subprocess.run(
        command("--server", kind),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    output = done.stdout
    shown = f"{output}\n{done.stderr}"
    assert os.EX_OK == done.returncode, shown

    for start, expected in ROWS.items():
        assert expected == tuple(map(int, row(output, f"{start} ")[:2])), shown
    sent, cut_off, counted = map(int, row(output, "GET /slow 200 ")[:3])
    assert (5, 1) == (sent, cut_off)
    assert counted in {4, 5}
    naive_sent, naive_counted = map(int, row(output, f"GET {NAIVE.path} 200 ")[:2])
    assert naive_sent == naive_counted
    # No worker saw all of it: one was killed in the middle.
    assert all(int(total) < REQUESTS for total in row(output, "all ")[-4:])
    # It sleeps for 250 ms, at which a bucket ends: the true value is in a later one.
    median = float(row(output.partition("Latency")[2], "GET /slow ")[1])
    assert median > 250.0, shown
    assert "killed, kill -9 in the middle of /slow" in output
    assert "recycled, after its last request" in output
    assert "in which 0 series of a counter went back" in output
    assert "Sent equals counted" in output


def test_keep_leaves_all_running_until_it_is_interrupted(tmp_path: Path) -> None:
    """With --keep all printed URLs answer after the tables, also a Prometheus'; Ctrl-C ends the server, and the demo exits with 0."""
    with kept(tmp_path, "uwsgi") as (process, output):
        (application,) = row(output, "Application: ")
        (metrics,) = row(output, "Metrics: ")
        (page,) = row(output, "Live page: ")
        (prometheus, *missing) = row(output, "Prometheus: ")
        assert b"GET /users/&lt;int:user_id&gt;" in live.request(page).body
        assert missing or live.request(f"{prometheus.partition('/graph')[0]}/-/ready").status == 200
        assert b"Hello\n" == live.request(application).body
        before = live.parse_samples(live.request(metrics).body.decode())
        live.request(f"{application}users/3")
        counted = frozenset({"method": "GET", "route": "/users/<int:user_id>", "status": "200"}.items())
        series = ("http_requests_total", counted)
        after = live.eventually(
            lambda: live.parse_samples(live.request(metrics).body.decode())[series],
            lambda value: value > before[series],
        )
        assert before[series] + 1 == after

        ports = {urllib.parse.urlsplit(url).port for url in (application, metrics, page)}
        listening = [
            found.pid
            for found in psutil.net_connections("tcp")
            if found.status == psutil.CONN_LISTEN and found.laddr.port in ports
        ]
        process.send_signal(signal.SIGINT)
        assert os.EX_OK == process.wait(DEMO_SECONDS)

    # Not by the ports, which may be another test's by now.
    assert ({True}, []) == ({bool(listening)}, [pid for pid in listening if pid in live.living()])


@contextlib.contextmanager
def kept(folder: Path, kind: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the demo until it says that it goes on, and give its process and what it has printed."""
    path = folder / "output"
    with (
        path.open("wb") as output,
        subprocess.Popen(
            command("--server", kind, "--keep"), cwd=folder, env=environment(), stdout=output
        ) as process,
    ):
        try:
            text = live.eventually(
                path.read_text,
                lambda text: "until Ctrl-C" in text or process.poll() is not None,
                DEMO_SECONDS,
            )
            assert "until Ctrl-C" in text
            yield process, text
        finally:
            # It ends its server; SIGKILL would leave that running.
            process.terminate()
            process.wait(DEMO_SECONDS)


def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """Without rich the demo says how to install it, and starts nothing."""
    code = "import sys, runpy; sys.modules['rich'] = None; runpy.run_module('demo', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert 1 == done.returncode
    assert "rich" in done.stderr
    assert done.stderr.endswith("`make demo` installs all that the demo needs.\n")


@pytest.mark.parametrize(
    ("quantile", "buckets", "expected"),
    [
        # 20 values up to 0.1, 60 more up to 0.5, 20 more up to 1. The 50th is the 30th of the 60: half way.
        (0.5, {0.1: 20, 0.5: 80, 1.0: 100, math.inf: 100}, 0.3),
        # The 90th is the 10th of the 20 between 0.5 and 1.
        (0.9, {0.1: 20, 0.5: 80, 1.0: 100, math.inf: 100}, 0.75),
        # The lowest bucket starts at 0: the 10th of its 20 values.
        (0.1, {0.1: 20, 0.5: 80, 1.0: 100, math.inf: 100}, 0.05),
        # Exactly at a bound, and not in the bucket above.
        (0.8, {0.1: 20, 0.5: 80, 1.0: 100, math.inf: 100}, 0.5),
        # Empty buckets are passed over, also at the start.
        (0.5, {0.1: 0, 0.5: 0, 1.0: 4, math.inf: 4}, 0.75),
        # Beyond the highest finite bound that bound is all that is known.
        (0.99, {0.1: 20, 0.5: 80, 1.0: 90, math.inf: 100}, 1.0),
        # A bucket at or below 0 has no width that is known: its bound.
        (0.5, {-1.0: 8, 1.0: 10, math.inf: 10}, -1.0),
        (0.9, {-1.0: 8, 1.0: 10, math.inf: 10}, 0.0),
    ],
)
def test_quantiles_are_those_of_histogram_quantile(
    quantile: float, buckets: Mapping[float, float], expected: float
) -> None:
    """Quantiles follow the rules in Prometheus' documentation of histogram_quantile."""
    assert pytest.approx(expected) == histogram_quantile(quantile, buckets)


@pytest.mark.parametrize("buckets", [{}, {math.inf: 3.0}, {0.1: 1.0, 0.5: 2.0}, {0.1: 0.0, math.inf: 0.0}])
def test_there_is_no_quantile_without_values_or_bounds(buckets: Mapping[float, float]) -> None:
    """
    The quantile is NaN, as in Prometheus, without buckets, without finite ones, without +Inf, or without observations.
    """
    assert math.isnan(histogram_quantile(0.5, buckets))


def test_each_hundred_requests_have_the_same_kinds_in_another_order_than_by_kind() -> None:
    """Any hundred successive requests have all kinds in the same numbers, mixed, with few slow ones."""
    kinds = [kind_of(number) for number in range(300)]
    hundreds = [Counter(kinds[start : start + 100]) for start in (0, 50, 200)]
    rare = {kind: hundreds[0][kind] for kind in (STREAM, SLOW)}
    assert {STREAM: 5, SLOW: 1} == rare
    assert hundreds[0] == hundreds[1] == hundreds[2]
    assert len(set(kinds[:CLIENTS])) > 1


def test_the_naive_endpoint_shows_only_what_its_own_process_saw() -> None:
    """Requests are counted by method, route and status, and those of the page itself are not."""
    first, second = (add_naive_metrics(Flask(name)).test_client() for name in ("first", "second"))
    first.get("/a")
    first.get("/b")
    first.get(NAIVE.path)
    expected = [{Row("GET", "unmatched", "404"): 2.0}, {}]
    assert expected == [parse(client.get(NAIVE.path).text).by_row() for client in (first, second)]


def test_a_counter_that_falls_or_vanishes_went_back() -> None:
    """A counter or histogram that sinks or vanishes is reported; gauges and figures of one process are not."""
    before = parse(page_text(a=5, b=2, gauge=3, cpu=9, bucket=4))
    fell = backward(before, parse(page_text(a=4, b=2, gauge=0, cpu=1, bucket=4)))
    assert ["a_total{} went back from 5 to 4"] == fell
    gone = backward(before, parse("# TYPE b_total counter\nb_total 2\n"))
    expected = [
        "a_total{} went back from 5 to nothing",
        "h_bucket{'le': '+Inf'} went back from 4 to nothing",
    ]
    assert expected == gone
    assert not backward(before, parse(page_text(a=5, b=9, gauge=9, cpu=9, bucket=4)))


def test_a_worker_that_went_is_shown_with_the_count_before_and_after() -> None:
    """A worker that is missing in the second of two scrapes is shown, in order, and marked if it was killed."""
    moments = [
        Moment(frozenset({1, 2}), 10.0, 1.0),
        Moment(frozenset({2, 3}), 14.0, 1.0),
        Moment(frozenset({3, 4}), 20.0, 0.0),
    ]
    expected = [Departure(1, False, 10.0, 14.0), Departure(2, True, 14.0, 20.0)]
    assert expected == departures(moments, killed=2)


@pytest.mark.parametrize(
    ("counted", "in_progress", "went_back", "expected"),
    [
        ({INDEX.row: 3.0, SLOW.row: 1.0}, 0.0, [], []),
        # The request that was cut off may have been complete.
        ({INDEX.row: 3.0, SLOW.row: 2.0}, 0.0, [], []),
        (
            {INDEX.row: 3.0, SLOW.row: 3.0},
            0.0,
            [],
            ["GET /slow 200: 1 answered and 1 cut off, but 3 counted"],
        ),
        ({INDEX.row: 3.0}, 0.0, [], ["GET /slow 200: 1 answered and 1 cut off, but 0 counted"]),
        (
            {INDEX.row: 2.0, SLOW.row: 1.0, NAIVE.row: 1.0},
            0.0,
            [],
            [
                "GET / 200: 3 answered and 0 cut off, but 2 counted",
                f"GET {NAIVE.path} 200: 0 answered and 0 cut off, but 1 counted",
            ],
        ),
        ({INDEX.row: 3.0, SLOW.row: 1.0}, 1.0, [], ["1 requests are in progress after the last one"]),
        ({INDEX.row: 3.0, SLOW.row: 1.0}, 0.0, ["a went back"], ["a went back"]),
    ],
)
def test_only_what_was_sent_may_be_counted(
    counted: Mapping[Row, float], in_progress: float, went_back: list[str], expected: list[str]
) -> None:
    """Each answered request must be counted, an interrupted one may be, and nothing else may."""
    moments = [Moment(frozenset({1, 2}), 0.0, 1.0), Moment(frozenset({3, 4}), 4.0, 0.0)]
    verdict = judge(sent(), page_of(counted, in_progress), moments, killed=1, went_back=went_back)
    assert expected == verdict.problems


def test_a_request_that_no_kill_explains_is_a_problem() -> None:
    """One kill explains one interrupted request; a demo without a killed or recycled worker is a failure."""
    results = [*sent(), Result(INDEX.row, error="GET /: reset")]
    moments = [Moment(frozenset({1, 2}), 0.0, 0.0)] * 2
    verdict = judge(results, page_of({INDEX.row: 3.0, SLOW.row: 1.0}, 0.0), moments, killed=1, went_back=[])
    expected = [
        "requests were cut off, of which the kill explains one: GET /slow: killed; GET /: reset",
        "worker 1 was killed, and lives",
        "no worker was recycled",
    ]
    assert expected == verdict.problems


def sent() -> list[Result]:
    """Return three answers of the index, one of the slow route, and one request to the slow route that was cut off."""
    answers = [Result(kind.row) for kind in (INDEX, INDEX, INDEX, SLOW)]
    return [*answers, Result(SLOW.row, error="GET /slow: killed")]


def page_of(counted: Mapping[Row, float], in_progress: float) -> Page:
    samples = {
        ("http_requests_total", frozenset(found._asdict().items())): count for found, count in counted.items()
    }
    samples["http_requests_in_progress", frozenset()] = in_progress
    return Page(samples, frozenset({"http_requests_total"}))


def page_text(*, a: int, b: int, gauge: int, cpu: int, bucket: int) -> str:
    return (
        f"# TYPE a_total counter\na_total {a}\n# TYPE b_total counter\nb_total {b}\n"
        f"# TYPE g gauge\ng {gauge}\n"
        f'# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total{{worker="1"}} {cpu}\n'
        f'# TYPE h histogram\nh_bucket{{le="+Inf"}} {bucket}\n'
    )
