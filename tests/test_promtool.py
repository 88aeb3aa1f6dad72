"""The whole page of each server, with all figures on: promtool finds nothing to mend, and parsers find each series once."""

from __future__ import annotations

import dataclasses
import subprocess
from typing import TYPE_CHECKING

import live
import pytest
import servers
from prometheus_client.openmetrics import parser as openmetrics

from wsgi_prom.exporter.exposition import render
from wsgi_prom.exporter.scrapes import Scrapes, certificate
from wsgi_prom.settings import PREFIX, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# With a program of each kind that uWSGI's stats server tells of.
STATS = ("--stats", "stats.sock", "--cache2", "name=c,items=10", "--spooler", ".", "--attach-daemon", "sleep 600",
         "--cron", "59 2 31 12 -1 true")  # fmt: skip
SERVERS = {
    "gunicorn sync": (),
    "gunicorn sync --worker-class gevent": (),
    "uwsgi threads": STATS,
    "uwsgi prefork --gevent 10": STATS,
}
EVERYWHERE = {
    "http_requests_total", "app_orders_total", "wsgi_workers", "wsgi_worker_capacity", "wsgi_worker_busy_seconds_total",
    "wsgi_listen_queue", "wsgi_listen_queue_seconds_total", "wsgi_server_info", "wsgi_app_info", "wsgi_prom_scrapes_total",
    "process_cpu_seconds_total", "process_resident_memory_bytes",
}  # fmt: skip
OF_UWSGI = {
    "uwsgi_up", "uwsgi_worker_requests_total", "uwsgi_worker_core_busy", "uwsgi_cache_items", "uwsgi_spooler_running",
    "uwsgi_daemon_running", "uwsgi_cron_running", "uwsgi_lock_held", "uwsgi_worker_app_requests_total",
}  # fmt: skip


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[live.LiveServer]:
    name, *options = request.param.split(" --")
    words = [word for option in options for word in f"--{option}".split()]
    switches = {
        PREFIX + field.name.upper(): "1" for field in dataclasses.fields(Settings) if field.default is False
    }
    with servers.start(
        name, *words, *SERVERS[request.param], app="metered:app", workers=2, **switches
    ) as server:
        live.drive(server.url, ["/", "/record?kind=a&v=3", "/stream", "/nowhere", "/fail"] * 20)
        live.eventually(
            lambda: servers.value(server.samples(), "wsgi_workers", state="idle"), lambda idle: idle == 2
        )
        yield server


def complaints(page: str) -> list[str]:
    """Return what promtool says of a page in the text format, the only one that it reads."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=60, check=False
    )
    # These are the test application's own names, made to tell the modes apart.
    return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("app_")]


def test_promtool_finds_nothing_to_mend(server: live.LiveServer) -> None:
    """promtool check metrics is silent about the page of a real server, on which all figures are."""
    page = server.scrape()
    names = {name for name, _ in live.parse_samples(page)}
    uwsgi = str(server.command[0]).endswith("uwsgi")
    assert set() == (EVERYWHERE | (OF_UWSGI if uwsgi else set())) - names
    assert [] == complaints(page)


def test_both_formats_have_the_same_series(server: live.LiveServer) -> None:
    """The page in OpenMetrics has the series of the page in the text format, each once."""

    def pages() -> tuple[list[object], set[object]]:
        answer = server.get("", base=server.metrics_url, headers={"Accept": "application/openmetrics-text"})
        assert answer.body.endswith(b"# EOF\n")
        families = openmetrics.text_string_to_metric_families(answer.body.decode())
        found = [
            (sample.name, frozenset(sample.labels.items()))
            for family in families
            for sample in family.samples
        ]
        return found, set(server.samples())

    # uWSGI knows its listen queue a second after its start, which may be between the two scrapes.
    found, others = live.eventually(pages, lambda both: set(both[0]) == both[1])
    assert len(others) == len(found)
    assert others == set(found)


def test_the_exporters_own_metrics_pass_promtool() -> None:
    """Those of an exporter with TLS too."""
    assert [] == complaints(render((), [*Scrapes().families(), *certificate(1.0)]))
