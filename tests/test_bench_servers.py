"""The benchmarks that start processes: what they read and count, and that contenders get the same requests."""

from __future__ import annotations

import re
import signal
import socket
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import daemon
import harness
import live
import load
import pacer
import pytest
import scrape
import serverfigures
import throughput
from filler import Writers
from reader import Reader

WRK = """\
Running 2s test @ http://127.0.0.1:8000/
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.91ms  204.02us   6.47ms   88.31%
    Req/Sec     2.10k    68.86     2.27k    75.00%
  4182 requests in 2.00s, 571.76KB read
{failures}Requests/sec:   2089.69
Transfer/sec:    285.70KB
"""


def own(page: str) -> live.Samples:
    """Return the samples that `LabelSets` records, without the exporter's own."""
    samples = live.parse_samples(page)
    return {key: value for key, value in samples.items() if key[0].startswith("shop_")}


@contextmanager
def answering(replies):
    """Have a socket that answers each connection with the next of *replies*, and yield its address."""

    def serve():
        for reply in replies:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()
        thread.join()


def test_a_benchmark_that_is_ended_leaves_nothing():
    """SIGTERM during a benchmark ends its children and removes their directories in shared memory."""
    command = [sys.executable, str(harness.FOLDER), "--quick", "--only", "usermetrics"]
    with live.LiveServer(command) as bench:
        # Of three contenders, one is a single process.
        folders = live.eventually(lambda: shared_by(bench.children()), lambda found: len(found) == 2)
        bench.kill(signal.SIGTERM)
        status = bench.wait()
        log = bench.log()
    assert 2 == len(folders)
    assert [] == [folder for folder in folders if folder.exists()]
    # Before it, what a child says that was in the middle of an answer.
    assert (1, "ended by SIGTERM") == (status, log.splitlines()[-1])
    assert [] == bench.leftovers


def shared_by(pids):
    """Return the directories that the processes *pids* share their values in."""
    found = [re.search(rb"PROMETHEUS_MULTIPROC_DIR=([^\0]+)", live.initial_environment(pid)) for pid in pids]
    return [Path(match[1].decode()) for match in found if match]


def test_runs_of_wrk():
    """wrk's report is parsed into requests, requests per second and 0 failures."""
    assert load.Run(4182, 2089.69, 0) == load.parse(WRK.format(failures=""))


def test_failed_runs_of_wrk():
    """Socket errors of all kinds and answers of a wrong status add up to the failures."""
    failures = "  Socket errors: connect 1, read 2, write 4, timeout 8\n  Non-2xx or 3xx responses: 16\n"
    assert 31 == load.parse(WRK.format(failures=failures)).failed


def test_other_words_of_wrk():
    """Output of wrk that is no report raises ValueError with that output."""
    with pytest.raises(ValueError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:8000 Connection refused")


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (75, 3.0), (99, 4.0), (100, 4.0), (1, 1.0)])
def test_percentiles(percent, expected):
    """A percentile is the least value that so many percent of the values do not exceed."""
    assert expected == pacer.percentile([4.0, 1.0, 3.0, 2.0], percent)


def test_open_loop():
    """
    Answers are returned in the order of the orders, whenever those were due; one that is not a 200 counts as none.
    """
    replies = [
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.0 503 Busy\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000,
    ]
    with answering(replies) as address:
        orders = [pacer.Order(due, address, "/", 30.0) for due in (0.2, 0.0, 0.1)]
        found = pacer.play(orders)
    assert [True, True, False] == [value is not None for value in found]


def test_open_loop_gives_up():
    """A request that is not answered within its limit counts as none and does not delay the others."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        answering([b"HTTP/1.0 200 OK\r\n\r\nok"]) as address,
    ):
        orders = [pacer.Order(0.0, silent.getsockname(), "/", 0.1), pacer.Order(0.2, address, "/", 30.0)]
        found = pacer.play(orders)
    assert [False, True] == [value is not None for value in found]


def test_refused_connections():
    """A refused connection counts as no answer."""
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        address = gone.getsockname()
    assert [None] == pacer.play([pacer.Order(0.0, address, "/", 5.0)])


def test_contenders_show_the_same():
    """The pages of stock and ours agree on every sample of workers that live, have changed, and have ended."""
    pages = []
    for contender in ("stock", "ours"):
        with Writers(contender) as writers:
            writers.end(3, 2, at_once=2)
            writers.hold(2, 3)
            with Reader(contender, writers.path) as reader:
                reader.scrape()
                writers.change()
                pages.append(own(reader.page()))
    stock, ours = pages
    # Sums of seconds, added up in another order.
    assert pytest.approx(stock) == ours
    counts = {
        dict(labels)["route"]: count for labels, count in live.labelled(ours, "shop_orders_total").items()
    }
    # Of the third label set only the two that are held know, and each has changed it once more.
    assert {f"/shops/{number}/orders/<int:order>": (7, 7, 4)[number] for number in range(3)} == counts


def test_every_label_set_changes():
    """Every label set changes between two scrapes, so that the worst case is measured."""
    with Writers("ours") as writers:
        writers.hold(2, 20)
        with Reader("ours", writers.path) as reader:
            before = own(reader.page())
            writers.change()
            after = own(reader.page())
    grown = [
        after[key] - count
        for key, count in before.items()
        if key[0] in {"shop_orders_total", "shop_order_seconds_count"}
    ]
    assert [2.0] * 40 == grown


def test_writers_leave_nothing(tmp_path):
    """Writers keep a directory that they were given, and remove one that was made for them."""
    with Writers("stock", tmp_path) as writers:
        writers.end(1, 1)
    assert ["counter", "histogram"] == sorted(path.name.split("_")[0] for path in tmp_path.iterdir())
    with Writers("stock") as writers:
        assert writers.path.is_dir()
    assert not writers.path.exists()


def test_scrape_figures(monkeypatch):
    """A run at the smallest scale has all figures that the plot draws, and a verdict for each promise."""
    for name, size in {"ONE": (1, 2), "FEW": (2, 1), "EIGHT": (2, 2), "MANY": (3, 2)}.items():
        monkeypatch.setattr(scrape, name, scrape.Size(*size))
    monkeypatch.setattr(scrape, "QUICK_DEAD", 2)
    part = scrape.measure(harness.Scale(rounds=1, slices=1, quick=True))
    names = {figure.name for figure in part.figures}
    assert {
        "stock 1 x 2",
        "ours 1 x 2",
        "read 1 x 2",
        "ours 1 x 2 unchanged",
        "stock 2 x 1",
        "ours 2 x 2",
    } <= names
    assert {
        "stock 3 x 2 cold",
        "ours 3 x 2 cold",
        "ours 3 x 2 memory",
        "ours 2 dead",
        "stock 0 dead",
    } <= names
    assert 6 == len(part.ratios)


@pytest.mark.parametrize("name", serverfigures.SERVERS)
def test_the_servers_figures_are_on_one_page_and_not_on_the_other(name, monkeypatch):
    """Of a real server with all figures both pages have the application's metrics, and one the server's."""
    monkeypatch.setattr(serverfigures, "WORKERS", 2)
    with serverfigures.scraped(name) as child:
        pages = {which: child.page(which) for which in ("with", "without")}
        assert child.scrape("with") > 0
    assert own(pages["with"]) == own(pages["without"])
    expected = {"wsgi_workers", "wsgi_worker_capacity", "wsgi_listen_queue", "process_cpu_seconds_total"}
    expected |= {"uwsgi_worker_core_busy"} if name == "uWSGI" else {"wsgi_worker_heartbeat_age_seconds"}
    assert expected <= {sample for sample, _ in live.parse_samples(pages["with"])}
    assert not expected & {sample for sample, _ in live.parse_samples(pages["without"])}


def test_serverfigures_figures(monkeypatch):
    """A run at the smallest scale has the cost with the figures, without, and their difference, and the promise."""
    monkeypatch.setattr(serverfigures, "WORKERS", 2)
    part = serverfigures.measure(harness.Scale(rounds=1, slices=1, quick=True))
    assert [f"{which} uWSGI 2 workers" for which in ("without", "with", "added")] == [
        figure.name for figure in part.figures
    ]
    assert [15] == [ratio.bound for ratio in part.ratios]


@pytest.mark.parametrize("start", [daemon.gunicorn, daemon.uwsgi])
def test_servers_count(start):
    """A server with the hook counts each request once, and ends with its `with` block."""
    with start("trivial:app", workers=2, hook=True) as server:
        url = server.url
        live.drive(url, ["/"] * 10)
        counted = throughput.counted(live.request(server.metrics_url).body.decode())
        assert server.cpu_seconds() > 0
    assert 10 == counted
    with pytest.raises(OSError):
        live.request(url)


def test_bare_servers_have_no_exporter():
    """A server without the hook logs nothing about metrics."""
    with daemon.gunicorn("trivial:app", workers=1, hook=False) as server:
        assert 200 == live.request(server.url).status
        assert "wsgi_prom" not in server.log()
