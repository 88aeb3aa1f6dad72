"""
Each panel's query, each rule and the queries of README and metrics.md, answered by a real Prometheus that has scraped a gunicorn and
a uWSGI under load, whose workers were killed.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import documents
import live
import pages
import pytest
import queries
import yaml
from traffic import Traffic

from wsgi_prom.dashboards.catalogue import METRICS, UWSGI

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from queries import Prometheus

# A uWSGI whose stats server is on, with all that it reports.
OPTIONS = ("--stats", "stats.sock", "--cache2", "name=c,items=10", "--spooler", ".", "--attach-daemon", "sleep 600",
           "--cron", "59 2 31 12 -1 true", "--memory-report")  # fmt: skip
PATHS = ("/", "/fail", "/sleep?s=0.05", "/cache", "/spool", "/stream", "/nowhere")
# Of a server that calls its metrics otherwise.
OTHER_NAMES = {"WSGI_PROM_NAMES": "otel", "WSGI_PROM_PREFIX": "shop_"}
# In seconds: longer than the ranges of the queries (pages.py).
LOAD = 14


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Have both servers busy for some time, kill and reload their workers, and yield a Prometheus with the rules that has watched."""
    folder = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        gunicorn = stack.enter_context(live.gunicorn("plain:app", workers=2))
        few = {"WSGI_PROM_LABEL_LIMIT": "2"}
        uwsgi = stack.enter_context(live.uwsgi(*OPTIONS, app="uwsgi_stated:app", workers=2, **few))
        renamed = stack.enter_context(live.gunicorn("plain:app", workers=1, **OTHER_NAMES))
        targets: dict[str, dict[str, str]] = {
            server.metrics_url.removeprefix("http://").removesuffix("/metrics"): {}
            for server in (gunicorn, uwsgi, renamed)
        }
        found = stack.enter_context(queries.prometheus(folder, targets, rules=[pages.DATA / "rules.yaml"]))
        with Traffic(gunicorn.url, PATHS, rate=20, number=3), Traffic(uwsgi.url, PATHS, rate=20, number=3):
            end = time.monotonic() + LOAD
            os.kill(gunicorn.pid, signal.SIGHUP)
            killed = False
            while time.monotonic() < end:
                for server in (gunicorn, renamed):
                    server.get("/", headers={"X-Request-Start": f"t={time.time() - 0.02}"})
                renamed.get("/fail")
                if not killed and time.monotonic() > end - LOAD / 2:
                    killed = True
                    for server in (gunicorn, uwsgi):
                        os.kill(server.workers()[0], signal.SIGKILL)
                time.sleep(0.5)
            yield found


def test_each_panel_has_data(prometheus: Prometheus) -> None:
    """Prometheus answers each panel's query, and a figure is among the answers."""
    asked = [target for path in pages.FILES for target in pages.targets(path)]
    assert [] == [
        target.name
        for target in asked
        if all(math.isnan(answer["value"]) for answer in prometheus.query(target.expression))
    ]


def test_the_rules_are_evaluated(prometheus: Prometheus) -> None:
    """No rule fails, each one that records has a series, and there are alerts of killed workers, failed requests, dropped label sets."""
    rules = prometheus.rules()
    assert [] == [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]
    records = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert [] == [name for name in records if not prometheus.query(name)]
    fired = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    assert {"WsgiWorkersKilled", "WsgiErrorBudgetBurn", "WsgiLabelSetsDropped"} == fired


def test_each_panel_has_data_under_other_names(prometheus: Prometheus, tmp_path: Path) -> None:
    """Of a server with WSGI_PROM_NAMES=otel and a prefix each panel about requests has data, if its dashboards have the same names."""
    written(["dashboards", "--out", str(tmp_path)])
    for name in ("application", "server"):
        path = tmp_path / f"wsgi-prom-{name}.json"
        asked = [target for target in pages.targets(path, prefix="shop_") if "shop_" in target.expression]
        assert len(asked) > 1
        assert [] == [target.name for target in asked if not prometheus.query(target.expression)]
        usual = re.compile(r"\b(route|method|status)\b")
        assert [] == [target.legend for target in asked if usual.search(target.legend)]
        variables = {
            variable["name"]: variable["query"] for variable in pages.page(path)["templating"]["list"]
        }
        assert "shop_" == variables["prefix"]


def test_the_rules_have_data_under_other_names(prometheus: Prometheus) -> None:
    """Of that server each rule about requests that records a figure of its own has one, and the objective of its route."""
    rules = yaml.safe_load(
        written(["rules", "--slo", "99% of GET /fail succeed", "--slo", "99% of / under 1s"])
    )
    asked = [
        rule["expr"]
        for group in rules["groups"]
        for rule in group["rules"]
        if "record" in rule and re.search(r"shop_http_\w+\{", rule["expr"]) and ":" not in rule["expr"]
    ]
    assert 14 < len(asked)
    assert [] == [expression for expression in asked if not prometheus.query(expression)]
    (failed,) = prometheus.query(next(expression for expression in asked if "/fail" in expression))
    assert 1 == failed["value"]


def written(arguments: list[str]) -> str:
    """Return what a command of `wsgi-prom` prints where the server's names are set."""
    return subprocess.run(
        [sys.executable, "-m", "wsgi_prom", *arguments],
        env=live.environment(OTHER_NAMES, runtime=live.ROOT), capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


def test_the_queries_of_the_readme_are_answered(prometheus: Prometheus) -> None:
    """Each of the five queries has an answer, and the server is in use."""
    readme = documents.blocks((live.ROOT / "README.md").read_text())
    (block,) = [block.text for block in readme if block.language == "promql"]
    answers = [prometheus.query(line.partition("#")[0]) for line in block.splitlines()]
    assert 5 == len([answer for answer in answers if answer])
    assert answers[3][0]["value"] > 0


def test_the_query_of_each_metric_is_answered(prometheus: Prometheus) -> None:
    """Prometheus takes the query of each metric, and answers it if it has the metric, but for one that asks what is wrong."""
    entries = {entry.name: entry.query for entry in (*METRICS, *UWSGI)}
    answered = {name for name, query in entries.items() if prometheus.query(query)}
    names = "|".join(entries)
    there = {
        found["metric"]["__name__"].removesuffix("_count")
        for found in prometheus.query(f'count by (__name__) ({{__name__=~"({names})(_count)?"}})')
    }
    assert {"wsgi_prom_directory_readable"} == there - answered
