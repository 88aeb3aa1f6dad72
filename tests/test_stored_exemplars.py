"""Infos and exemplars on real servers, through a restart of their workers, as a real Prometheus stores them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import live
import queries
import servers

if TYPE_CHECKING:
    from pathlib import Path

SPAN = "00f067aa0ba902b7"


def send(server: live.LiveServer, name: str) -> None:
    """Have *server* do what the test asks Prometheus for, under *name*."""
    assert 200 == server.get(f"/?order={name}&paid=5").status
    trace = name.encode().hex().rjust(32, "0")
    for flags in ("01", "00"):
        trace = trace[::-1] if flags == "00" else trace
        header = f"00-{trace}-{SPAN}-{flags}"
        assert 200 == server.get("/traced", headers={"traceparent": header}).status


def infos(server: live.LiveServer) -> dict[str, list[dict[str, str]]]:
    """Return the labels of the Infos on the page by their names."""
    return {
        name: [dict(labels) for labels in live.labelled(server.samples(), name)]
        for name in ("shop_build_info", "shop_part_info")
    }


def by_series(found: list[dict[str, Any]], *names: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Return the labels of the last exemplar of the series that have the same values of some labels, by those values."""
    last = {}
    # Of a request that took another time the exemplar is in another bucket.
    for series in sorted(found, key=lambda series: series["exemplars"][-1]["timestamp"]):
        values = tuple(series["seriesLabels"].get(name, "") for name in names)
        last[values] = series["exemplars"][-1]["labels"]
    return last


def test_prometheus_stores_what_the_workers_of_both_servers_say(tmp_path: Path) -> None:
    """
    Under gunicorn and uWSGI an Info is what any worker set last, and Prometheus' API has the exemplars of the application
    and of sampled requests, also of workers that have ended.
    """
    env = {"WSGI_PROM_EXEMPLARS": "on"}
    started = {
        name: servers.start(name, app="exemplified:app", **env)
        for name in ("gunicorn sync preload", "uwsgi prefork")
    }
    with started["gunicorn sync preload"] as gunicorn, started["uwsgi prefork"] as uwsgi:
        both = {"gunicorn": gunicorn, "uwsgi": uwsgi}
        for name, server in both.items():
            # Set at the import, in the master.
            assert {"shop_build_info": [{"version": "1"}], "shop_part_info": []} == infos(server)
            assert 200 == server.get(f"/?version=2&host={name}").status
            send(server, name)
            for worker in server.workers():
                server.signal_child(worker, signal.SIGKILL)
            live.eventually(lambda server=server: server.get("/").status, lambda status: status == 200)
            given = {"version": "2", "host": name}
            assert {"shop_build_info": [given], "shop_part_info": [{"part": "a", **given}]} == infos(server)
        targets = {server.metrics_url.split("/")[2]: {"server": name} for name, server in both.items()}
        with queries.prometheus(tmp_path, targets, "--enable-feature=exemplar-storage") as prometheus:
            for name, server in both.items():
                send(server, f"{name}-2")
            trace = {name: f"{name}-2".encode().hex().rjust(32, "0") for name in both}

            def found(expression: str, *names: str) -> dict[tuple[str, ...], dict[str, str]]:
                return by_series(prometheus.exemplars(expression), "server", *names)

            assert {(name,): {"order": f"{name}-2"} for name in both} == live.eventually(
                lambda: found("shop_orders_total"),
                lambda orders: (
                    all(labels["order"].endswith("-2") for labels in orders.values()) and len(orders) == 2
                ),
            )
            assert {(name, "10.0"): {"order": f"{name}-2"} for name in both} == found(
                "shop_paid_bucket", "le"
            )
            traced = {(name, "/traced"): {"trace_id": trace[name], "span_id": SPAN} for name in both}
            assert traced == found('http_requests_total{route="/traced"}', "route")
            assert traced == found('http_request_duration_seconds_bucket{route="/traced"}', "route")
            assert 2 == prometheus.value('count(shop_build_info{version="2"})')
