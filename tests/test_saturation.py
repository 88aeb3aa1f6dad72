"""
The expressions of docs/saturation.md and of the autoscalers in examples/kubernetes, evaluated by Prometheus on a server that is
idle, then half busy, then full, then overrun.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import documents
import live
import pods
import pytest
import queries
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queries import Prometheus

PAGE = (live.ROOT / "docs" / "saturation.md").read_text()
BLOCKS = documents.blocks(PAGE)
KUBERNETES = live.ROOT / "examples" / "kubernetes"
WORKERS = 4
# More than the clients: on a busy machine all of them may wait for a moment.
BACKLOG = 8
REQUEST = 0.3
# The ranges of the expressions, in place of minutes.
RANGE = 10
# As a Deployment names its pods.
POD = {"namespace": "default", "pod": "shop-5d8c6f9b7-x2k4q"}


class Load(NamedTuple):
    """What Prometheus is asked: the times at which the server had been idle, half busy and full, and was overrun."""

    prometheus: Prometheus
    idle: float
    half: float
    full: float
    overrun: float
    # What the clients saw while it was full: the mean seconds that a request took longer than the application.
    waited: float


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Have a server of four workers be idle, half busy, full and overrun, each for longer than a range."""
    folder = tmp_path_factory.mktemp("saturation")
    options = ("--backlog", str(BACKLOG))
    with live.gunicorn("plain:app", *options, workers=WORKERS) as server:
        target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
        with queries.prometheus(folder, {target: POD}) as prometheus:
            # The first value of a new series is no increase.
            live.drive(server.url, ["/sleep?s=0.1"] * 20)
            idle = queries.settle(RANGE + 3)
            with clients(server, 2):
                half = queries.settle(RANGE + 3)
            with clients(server, WORKERS + 3) as took:
                full = queries.settle(RANGE + 3)
            overrun = overran(server)
            yield Load(prometheus, idle, half, full, overrun, mean(took[WORKERS + 3 :]) - REQUEST)


@contextlib.contextmanager
def clients(server: live.LiveServer, number: int) -> Iterator[list[float]]:
    """Have *number* clients send one request after the other, and yield how long each took."""
    end = threading.Event()
    took: list[float] = []

    def send() -> None:
        while not end.is_set():
            began = time.monotonic()
            assert 200 == server.get(f"/sleep?s={REQUEST}").status
            took.append(time.monotonic() - began)

    with ThreadPoolExecutor(number) as pool:
        sending = [pool.submit(send) for _ in range(number)]
        try:
            yield took
        finally:
            end.set()
        for client in sending:
            client.result()


def overran(server: live.LiveServer) -> float:
    """Have twelve connections more than the workers come at once, and return the time of a scrape in which some are dropped."""
    address = server.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    with ThreadPoolExecutor(WORKERS) as pool, contextlib.ExitStack() as stack:
        busy = [pool.submit(server.get, "/sleep?s=4") for _ in range(WORKERS)]
        live.eventually(
            server.samples, lambda page: page["wsgi_workers", frozenset({("state", "busy")})] == WORKERS
        )
        for _ in range(12):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex((address[0], int(address[1])))
        found = queries.settle(2.5)
        stack.close()
        assert [200] * WORKERS == [answer.result().status for answer in busy]
    return found


def promql() -> dict[str, str]:
    """Return the page's expressions by the comment of their first line, their ranges shortened."""
    found = [block.text for block in BLOCKS if block.language == "promql"]
    return {text.partition("\n")[0].removeprefix("# "): queries.shortened(text, RANGE) for text in found}


def test_there_is_no_block_that_no_test_runs() -> None:
    """The page has the expressions of the tests below, and no other block."""
    assert {*EXPECTED, "mean wait in seconds", "drops", "oldest request in seconds"} == set(promql())
    assert {"promql"} == {block.language for block in BLOCKS}


# While it is idle, half busy, full. Requests are counted when they end, so that a range holds one more or less for each worker.
EXPECTED = {
    "utilisation": (0, 0.5, 1),
    "busy now": (0, 0.5, 1),
    "workers needed": (0, 2 / 0.6, 4 / 0.6),
    "mean queue": (0, 0, 3),
    "share of the backlog": (0, 0, 3 / BACKLOG),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_the_page_says_of_a_server(name: str, load: Load) -> None:
    """Of four workers two, then all are busy, and then three connections wait: so Prometheus answers."""
    expression = promql()[name]
    # At one instant a client may be between two requests.
    over = f"avg_over_time(({expression})[{RANGE - 2}s:1s])" if "[" not in expression else expression
    answers = [load.prometheus.value(over, at) for at in (load.idle, load.half, load.full)]
    largest = max(EXPECTED[name])
    assert pytest.approx(EXPECTED[name], abs=0.15 * largest) == answers


def test_the_wait_is_what_the_clients_see(load: Load) -> None:
    """By Little's law a request waits as long as its client sees it take longer than the application; without a queue, not at all."""
    expression = promql()["mean wait in seconds"]
    assert pytest.approx(load.waited, rel=0.25) == load.prometheus.value(expression, load.full)
    assert pytest.approx(0, abs=0.02) == load.prometheus.value(expression, load.half)


def test_drops_and_the_oldest_request(load: Load) -> None:
    """Connections that a full queue does not take are dropped, and a request in progress gets older."""
    drops, age = promql()["drops"], promql()["oldest request in seconds"]
    assert [0, 0, 0] == [load.prometheus.value(drops, at) for at in (load.idle, load.half, load.full)]
    dropped, oldest = load.prometheus.value(drops, load.overrun), load.prometheus.value(age, load.overrun)
    assert dropped is not None and oldest is not None
    assert dropped > 0
    assert 1 < oldest < 10


def test_the_alerts(load: Load) -> None:
    """
    Of the shipped alerts, with one worker in two busy none fires, with all of them busy and a queue two, then that of drops.
    """
    shipped = yaml.safe_load((live.ROOT / "wsgi_prom" / "dashboards" / "rules.yaml").read_text())
    (rules,) = [group["rules"] for group in shipped["groups"] if group["name"] == "wsgi_prom.saturation"]
    # What the queue will be in 15 minutes, ten seconds do not tell.
    expressions = {
        rule["alert"]: queries.shortened(rule["expr"], RANGE)
        for rule in rules
        if rule["alert"] != "WsgiQueueGrowing"
    }
    raised = [
        {name for name, expression in expressions.items() if load.prometheus.query(expression, at)}
        for at in (load.idle, load.half, load.full, load.overrun)
    ]
    assert [set(), set(), {"WsgiNoIdleWorker", "WsgiConnectionsWait"}] == raised[:3]
    assert "WsgiConnectionsDropped" in raised[3]


# The adapter's queries are asked for each pod, KEDA's for all.
AUTOSCALED = {"wsgi_worker_utilisation": (0, 0.5, 1), "wsgi_listen_queue_mean": (0, 0, 3)}


def test_the_rules_of_prometheus_adapter(load: Load) -> None:
    """Each rule finds its series, and its query has one answer for each pod: 0.5 where two of four workers are busy."""
    (values,) = pods.documents(KUBERNETES / "prometheus-adapter.yaml")
    matchers = ",".join([f'namespace="{POD["namespace"]}"', f'pod=~"{POD["pod"]}|shop-2"'])
    found = {}
    for rule in values["rules"]["custom"]:
        (series,) = load.prometheus.query(rule["seriesQuery"], load.half)
        query = rule["metricsQuery"]
        given = {"Series": series["metric"]["__name__"], "LabelMatchers": matchers, "GroupBy": "pod"}
        for name, text in given.items():
            query = query.replace(f"<<.{name}>>", text)
        answers = [
            load.prometheus.query(queries.shortened(query, RANGE), at)
            for at in (load.idle, load.half, load.full)
        ]
        assert [[{"pod": POD["pod"]}]] * 3 == [[item["metric"] for item in answer] for answer in answers]
        found[rule["name"]["as"]] = [item["value"] for (item,) in answers]
    assert {
        name: pytest.approx(numbers, abs=0.15 * max(numbers)) for name, numbers in AUTOSCALED.items()
    } == found


def test_the_queries_of_keda(load: Load) -> None:
    """Each trigger's query has one answer, 0.5 where two of four workers are busy, and none for another namespace."""
    (scaled,) = pods.documents(KUBERNETES / "keda.yaml")
    expected = dict(zip(("utilisation", "queue"), AUTOSCALED.values(), strict=True))
    found = {}
    for trigger in scaled["spec"]["triggers"]:
        query = queries.shortened(trigger["metadata"]["query"], RANGE)
        found[trigger["name"]] = [
            load.prometheus.value(query, at) for at in (load.idle, load.half, load.full)
        ]
        assert (
            load.prometheus.value(re.sub('namespace="[a-z]+"', 'namespace="other"', query), load.half) is None
        )
    assert {
        name: pytest.approx(numbers, abs=0.15 * max(numbers)) for name, numbers in expected.items()
    } == found
