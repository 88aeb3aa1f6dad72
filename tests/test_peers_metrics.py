"""
Metrics of other packages that use the client library are right in our directory with their usual set-up:
django-prometheus and prometheus-flask-exporter under a gunicorn of three workers, one of which is killed half-way.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import live
import pytest

if TYPE_CHECKING:
    from pathlib import Path

WORKERS = 3
ROUNDS = 10

Values = dict[tuple[str, ...], float]

# What prometheus-flask-exporter's README has for gunicorn, below our line.
CONFIG = """
from wsgi_prom.hooks.gunicorn import *
from prometheus_flask_exporter.multiprocess import GunicornPrometheusMetrics

def when_ready(server):
    {when_ready}

def child_exit(server, worker):
    GunicornPrometheusMetrics.mark_process_dead_on_child_exit(worker.pid)
"""


def values(samples: live.Samples, name: str, *labels: str) -> Values:
    """Return the samples called *name*, by the values of *labels*, which are all that they have."""
    found = {}
    for labelled, value in live.labelled(samples, name).items():
        by_name = dict(labelled)
        assert set(labels) == set(by_name)
        found[tuple(by_name[label] for label in labels)] = value
    return found


def drive(server: live.LiveServer, paths: list[str]) -> None:
    """Request each path ROUNDS times, and kill an idle worker half-way."""
    for share in (ROUNDS // 2, ROUNDS - ROUNDS // 2):
        driven = live.drive(server.url, paths * share)
        assert [] == driven.failed
        if share == ROUNDS // 2:
            victim = server.workers()[0]
            server.signal_child(victim, signal.SIGKILL)
            server.wait_for_log(r"Booting worker with pid", count=WORKERS + 1)


@pytest.fixture
def django(tmp_path: Path) -> dict[str, str]:
    """Return the environment of the Django project, with its database made."""
    env = {"PEER_FOLDER": str(tmp_path)}
    migrate = "import peer_django; from django.core.management import call_command; call_command('migrate', run_syncdb=True)"
    path = os.pathsep.join([str(live.ROOT), str(live.APPS)])
    subprocess.run(
        [sys.executable, "-c", migrate],
        env={**os.environ, **env, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return env


def test_django_prometheus_counts_queries_and_cache_lookups(django: dict[str, str]) -> None:
    """Statements, connections, errors, durations and cache look-ups of all workers are counted exactly once."""
    with live.gunicorn("peer_django:app", workers=WORKERS, **django) as server:
        drive(server, ["/", "/query/", "/wrong/", "/cache/"])
        ours = server.samples()
        theirs = live.parse_samples(server.get("/metrics").body.decode())
    for samples in (ours, theirs):
        database = ("alias", "vendor")
        # Two statements and one executemany of three in the one view, one that fails in the other.
        assert {("default", "sqlite"): 6.0 * ROUNDS} == values(samples, "django_db_execute_total", *database)
        assert {("default", "sqlite"): 3.0 * ROUNDS} == values(
            samples, "django_db_execute_many_total", *database
        )
        assert {("default", "sqlite"): 4.0 * ROUNDS} == values(
            samples, "django_db_query_duration_seconds_count", *database
        )
        # Django closes a connection at the end of each request.
        assert {("default", "sqlite"): 2.0 * ROUNDS} == values(
            samples, "django_db_new_connections_total", *database
        )
        assert {("default", "sqlite", "OperationalError"): 1.0 * ROUNDS} == values(
            samples, "django_db_errors_total", *database, "type"
        )
        for name, times in (
            ("django_cache_get_total", 3.0),
            ("django_cache_get_hits_total", 2.0),
            ("django_cache_get_misses_total", 1.0),
        ):
            expected = {("locmem",): times * ROUNDS, ("filebased",): times * ROUNDS}
            assert expected == values(samples, name, "backend")
        requests = "django_http_requests_total_by_view_transport_method_total"
        found = values(samples, requests, "view", "transport", "method")
        assert 1.0 * ROUNDS == found["peer_django.query", "http", "GET"]


# What its documentation names, and how often each label set counts in a round of one request to each view. It observes the latency
# of a view that fails twice.
DJANGO_COUNTS: dict[str, dict[str, float]] = {
    "django_http_requests_before_middlewares_total": {"": 6},
    "django_http_responses_before_middlewares_total": {"": 6},
    "django_http_requests_unknown_latency_including_middlewares_total": {"": 0},
    "django_http_requests_unknown_latency_total": {"": 0},
    "django_http_ajax_requests_total": {"": 1},
    "django_http_responses_streaming_total": {"": 1},
    "django_http_requests_latency_including_middlewares_seconds_count": {"": 6},
    "django_http_requests_body_total_bytes_count": {"": 6},
    "django_http_requests_body_total_bytes_sum": {"": 3},
    "django_http_responses_body_total_bytes_count": {"": 5},
    "django_http_requests_latency_seconds_by_view_method_count": {
        "GET peer_django.index": 1, "GET peer_django.template": 1, "GET peer_django.stream": 1, "GET peer_django.fail": 2,
        "GET peer_django.model": 1, "POST peer_django.index": 1,
    },
    "django_http_requests_total_by_method_total": {"GET": 5, "POST": 1},
    "django_http_requests_total_by_transport_total": {"http": 6},
    "django_http_requests_total_by_view_transport_method_total": {
        "GET http peer_django.index": 1, "GET http peer_django.template": 1, "GET http peer_django.stream": 1,
        "GET http peer_django.fail": 1, "GET http peer_django.model": 1, "POST http peer_django.index": 1,
    },
    "django_http_responses_total_by_templatename_total": {"peer.html": 1},
    "django_http_responses_total_by_status_total": {"200": 5, "500": 1},
    "django_http_responses_total_by_charset_total": {"utf-8": 6},
    "django_http_exceptions_total_by_type_total": {"ValueError": 1},
    "django_http_exceptions_total_by_view_total": {"peer_django.fail": 1},
    "django_model_inserts_total": {"order": 1},
    "django_model_updates_total": {"order": 1},
    "django_model_deletes_total": {"order": 1},
}  # fmt: skip


def test_django_prometheus_is_complete(django: dict[str, str]) -> None:
    """Each metric that its documentation names, and each that a worker has, is on our page, of all workers, and counts right."""
    with live.gunicorn("peer_django:app", workers=WORKERS, **django) as server:
        for _ in range(ROUNDS):
            for path in ("/", "/template/", "/stream/", "/fail/", "/model/"):
                ajax = {"X-Requested-With": "XMLHttpRequest"} if path == "/" else {}
                server.get(path, headers=ajax)
            server.get("/", method="POST", body=b"abc")
        page = server.scrape()
        names = server.get("/names/").body.decode().split()
    samples = live.parse_samples(page)
    found = {
        name: {
            " ".join(text for _, text in sorted(labels)): count / ROUNDS
            for labels, count in live.labelled(samples, name).items()
        }
        for name in DJANGO_COUNTS
    }
    assert found == DJANGO_COUNTS
    shown = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    # Those without labels, and those that something was recorded in.
    assert {"django_http_requests_before_middlewares_total", "django_model_inserts_total"} <= set(names)
    assert [] == [name for name in names if name not in shown]


def test_django_prometheus_has_a_gauge_of_migrations_for_each_worker(django: dict[str, str]) -> None:
    """Its gauges, which name no multiprocess mode, have one right sample for each worker."""
    with live.gunicorn("peer_django:app", workers=WORKERS, PEER_MIGRATIONS="1", **django) as server:
        name, labels = "django_migrations_applied_total", ("connection", "pid")
        slots = [("default", str(slot)) for slot in range(WORKERS)]
        found = live.eventually(
            lambda: values(server.samples(), name, *labels), lambda found: len(found) == WORKERS
        )
        unapplied = values(server.samples(), "django_migrations_unapplied_total", *labels)
    assert dict.fromkeys(slots, 2.0) == found
    assert dict.fromkeys(slots, 0.0) == unapplied


@pytest.mark.parametrize("kind", ["plain", "internal", "gunicorn"])
def test_prometheus_flask_exporter_counts_requests(kind: str, tmp_path: Path) -> None:
    """Its request metrics and the application's own are the same on our exporter and on its own endpoint."""
    with live.hold_port() as holder:
        port = holder.getsockname()[1]
        serve = f"GunicornPrometheusMetrics.start_http_server_when_ready({port}, '127.0.0.1')"
        config = tmp_path / "gunicorn.conf.py"
        config.write_text(CONFIG.format(when_ready=serve if kind == "gunicorn" else "pass"))
        with live.gunicorn("peer_flask:app", workers=WORKERS, config=str(config), PEER_KIND=kind) as server:
            drive(server, ["/", "/users/1", "/fail", "/busy", "/untracked"])
            ours = server.samples()
            endpoint = f"http://127.0.0.1:{port}" if kind == "gunicorn" else server.url
            theirs = live.parse_samples(live.request(f"{endpoint}/metrics").body.decode())
    for samples in (ours, theirs):
        assert_flask_counts(samples)


@pytest.mark.parametrize("kind", ["plain", "uwsgi"])
def test_prometheus_flask_exporter_counts_requests_under_uwsgi(kind: str) -> None:
    """Its metrics are right under uWSGI too, whose master imports the application and forks."""
    with live.uwsgi(app="peer_flask:app", workers=WORKERS, PEER_KIND=kind) as server:
        live.drive(server.url, ["/", "/users/1", "/fail", "/busy", "/untracked"] * ROUNDS)
        assert_flask_counts(server.samples())


def assert_flask_counts(samples: live.Samples) -> None:
    times = 1.0 * ROUNDS
    assert {("GET", "200"): 3 * times, ("GET", "500"): times} == values(
        samples, "flask_http_request_total", "method", "status"
    )
    assert {
        ("GET", "/", "200"): times,
        ("GET", "/users/1", "200"): times,
        ("GET", "/busy", "200"): times,
        ("GET", "/fail", "500"): times,
    } == values(samples, "flask_http_request_duration_seconds_count", "method", "path", "status")
    assert {("GET", "500"): times} == values(
        samples, "flask_http_request_exceptions_total", "method", "status"
    )
    assert {("yes",): times} == values(samples, "shop_views_total", "even")
    assert {("200",): times} == values(samples, "shop_profile_seconds_count", "status")
    assert {("user",): times} == values(samples, "shop_profile_buckets_count", "view")
    assert {("user", "60.0"): times, ("user", "+Inf"): times} == values(
        samples, "shop_profile_buckets_bucket", "view", "le"
    )
    assert {("1.0",): 1.0} == values(samples, "shop_info", "version")
    assert 1 == len(live.labelled(samples, "flask_exporter_info"))
    # Each duration has its buckets: of the default ones, all are below the last.
    buckets = values(samples, "flask_http_request_duration_seconds_bucket", "method", "path", "status", "le")
    assert {times} == {count for (*_, le), count in buckets.items() if le == "+Inf"}
    # Of the multiprocess mode that shows each worker, of which those that served it have one.
    assert {0.0} == set(values(samples, "shop_busy", "pid").values())
