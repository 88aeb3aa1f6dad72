"""
Each panel's query, each rule and the queries of README and metrics.md, answered by a real Prometheus that has scraped a gunicorn and
a uWSGI under load, whose workers were killed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import live
import pages
import pytest
import queries
from test_metrics import README
from traffic import Traffic

from wsgi_prom.dashboards.catalogue import METRICS, UWSGI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queries import Prometheus

# With what uWSGI's stats server tells of.
OPTIONS = ("--stats", "stats.sock", "--cache2", "name=c,items=10", "--spooler", ".", "--attach-daemon", "sleep 600",
           "--cron", "59 2 31 12 -1 true", "--memory-report")  # fmt: skip
PATHS = ("/", "/fail", "/sleep?s=0.05", "/cache", "/spool", "/stream", "/nowhere")
# In seconds: longer than the ranges of the queries (pages.py).
LOAD = 14
TARGETS = [target for path in pages.FILES for target in pages.targets(path)]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Have both servers busy for some time, kill and reload their workers, and yield a Prometheus with the rules that has watched."""
    folder = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        gunicorn = stack.enter_context(live.gunicorn("plain:app", workers=2))
        few = {"WSGI_PROM_LABEL_LIMIT": "2"}
        uwsgi = stack.enter_context(live.uwsgi(*OPTIONS, app="uwsgi_stated:app", workers=2, **few))
        targets: dict[str, dict[str, str]] = {
            server.metrics_url.removeprefix("http://").removesuffix("/metrics"): {}
            for server in (gunicorn, uwsgi)
        }
        found = stack.enter_context(queries.prometheus(folder, targets, rules=[pages.DATA / "rules.yaml"]))
        with Traffic(gunicorn.url, PATHS, rate=20, number=3), Traffic(uwsgi.url, PATHS, rate=20, number=3):
            end = time.monotonic() + LOAD
            os.kill(gunicorn.pid, signal.SIGHUP)
            killed = False
            while time.monotonic() < end:
                gunicorn.get("/", headers={"X-Request-Start": f"t={time.time() - 0.02}"})
                if not killed and time.monotonic() > end - LOAD / 2:
                    killed = True
                    for server in (gunicorn, uwsgi):
                        os.kill(server.workers()[0], signal.SIGKILL)
                time.sleep(0.5)
            yield found


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_panel_has_data(target: pages.Target, prometheus: Prometheus) -> None:
    """Prometheus answers the panel's query, and a figure is among the answers."""
    answers = prometheus.query(target.expression)
    assert [] != [answer for answer in answers if answer["value"] == answer["value"]]


def test_the_rules_are_evaluated(prometheus: Prometheus) -> None:
    """No rule fails, each one that records has a series, and there are alerts of killed workers, failed requests, dropped label sets."""
    rules = prometheus.rules()
    assert [] == [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]
    records = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert [] == [name for name in records if not prometheus.query(name)]
    fired = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    assert {"WsgiWorkersKilled", "WsgiErrorBudgetBurn", "WsgiLabelSetsDropped"} == fired


def test_the_queries_of_the_readme_are_answered(prometheus: Prometheus) -> None:
    """Each of the five queries has an answer, the last two more than none."""
    answers = [prometheus.query(line.partition("#")[0]) for line in README.splitlines()]
    assert 5 == len([answer for answer in answers if answer])
    assert answers[3][0]["value"] > 0


@pytest.mark.parametrize("entry", [*METRICS, *UWSGI], ids=lambda entry: entry.name)
def test_the_query_of_a_metric_is_answered(entry, prometheus: Prometheus) -> None:
    """Prometheus takes the query of each metric, and answers it if it has the metric, but for one that asks what is wrong."""
    answers = prometheus.query(entry.query)
    pattern = f"{re.escape(entry.name)}(_count)?"
    if prometheus.query(f'count({{__name__=~"{pattern}"}})') and "==" not in entry.query:
        assert [] != answers
