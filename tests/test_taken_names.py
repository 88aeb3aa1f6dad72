"""An application that has metrics of the names that wsgi_prom's metrics of requests have."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers
from prometheus_client import Counter, Gauge

from wsgi_prom import metrics
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

TAKEN = "http_request_duration_seconds, http_requests_total"
REMEDY = "Set WSGI_PROM_PREFIX, such as WSGI_PROM_PREFIX=shop_, or rename the application's. Then restart"


@pytest.mark.parametrize("name", servers.BOTH)
def test_the_log_names_them_once_and_the_page_counts_them(name: str) -> None:
    """One line of log names the metrics and the remedy; without it a sum would count each request twice, and nobody knew."""
    with servers.start(name, app="taken:app", workers=2) as server:
        live.drive(server.url, ["/"] * 6)
        server.samples()
        samples = server.samples()
        told = server.wait_for_log(r"wsgi_prom: the application has metrics .*")[0]
        log = server.log()
    assert f"wsgi_prom: the application has metrics of wsgi_prom's names: {TAKEN}. " in told
    assert REMEDY in told
    assert 1 == log.count("of wsgi_prom's names")
    assert 2 == servers.value(samples, "wsgi_prom_conflicting_metrics")
    assert 12 == sum(live.labelled(samples, "http_requests_total").values())


def test_a_metric_that_is_left_out_is_counted_once(recording: Callable[..., Any], shared: Path) -> None:
    """A gauge that has the name of the samples of a counter of wsgi_prom's: one of them is left out, and that is one metric."""

    def conflicts() -> int:
        Gauge("http_requests_total", "Mine.", registry=None, multiprocess_mode="sum").set(3)
        Counter(*metrics.REQUESTS, registry=None).inc()
        collector = Collector(shared)
        collector.collect()
        return collector.report.conflicts

    assert 1 == recording(conflicts)


def test_a_single_process_says_so_too() -> None:
    """Where there is no shared directory the page has wsgi_prom's metrics alone, and the log names those that are not shown."""
    options = {"workers": 1, "config": None, "WSGI_PROM_METRICS_PATH": "/metrics"}
    with live.gunicorn("taken:wrapped", **options) as server:
        server.get("/")
        server.get("/metrics")
        page = live.parse_samples(server.get("/metrics").body.decode())
        log = server.log()
    assert 1 == log.count(f"the application has metrics of wsgi_prom's names: {TAKEN}. ")
    assert 1 == sum(live.labelled(page, "http_requests_total").values())


def test_with_a_prefix_there_is_nothing_to_tell() -> None:
    """With WSGI_PROM_PREFIX each metric has a name of its own."""
    with servers.start("gunicorn sync", app="taken:app", workers=1, WSGI_PROM_PREFIX="wsgi_") as server:
        live.drive(server.url, ["/"] * 6)
        samples = server.samples()
        log = server.log()
    assert "of wsgi_prom's names" not in log
    assert 0 == servers.value(samples, "wsgi_prom_conflicting_metrics")
    assert 6 == sum(live.labelled(samples, "http_requests_total").values())
    assert 6 == sum(live.labelled(samples, "wsgi_http_requests_total").values())


def check(**env: str) -> Mapping[str, Any]:
    """Return what `wsgi-prom check` says of the names."""
    command = [sys.executable, "-m", "wsgi_prom", "check", "taken:app", "--json"]
    environ = live.environment({"PYTHONPATH": None, **env}, runtime=live.ROOT)
    done = subprocess.run(
        command, cwd=live.APPS, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    found = {item["subject"]: item for item in json.loads(done.stdout)["findings"]}
    return found.get("metrics", {})


def test_check_names_them_before_a_start() -> None:
    """`wsgi-prom check` finds them when it has imported the application, and nothing with a prefix, also of its own middleware."""
    found = check()
    assert found["ok"] is False
    assert found["remedy"].startswith(REMEDY)
    assert TAKEN in found["message"]
    assert {} == check(WSGI_PROM_PREFIX="wsgi_")
    assert {} == check(TAKEN_KEYWORDS='{"prefix": "shop_"}')
