"""Custom collectors and gauges with a function are on the page of a real server, as their modes say, and cost nothing but themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import documents
import live
import pytest
import servers

if TYPE_CHECKING:
    from pathlib import Path

    from live import LiveServer, Samples

# By default a round takes 5 s, and figures are shown for 15.
ROUND = {"WSGI_PROM_COLLECT_SECONDS": "1"}
GEVENT = {
    "gunicorn gevent preload": lambda **more: live.gunicorn("custom:app", "-k", "gevent", "--preload", **more),
    "uwsgi gevent": lambda **more: live.uwsgi("--gevent", "10", "--gevent-monkey-patch", app="custom:app", **more),
}  # fmt: skip
# Imported before and after the fork by each server, and with greenlets by each.
NAMES = ["gunicorn sync", "uwsgi prefork", "uwsgi lazy-apps", *GEVENT]


def start(name: str, **more: Any) -> LiveServer:
    if name in GEVENT:
        return GEVENT[name](workers=2, **{**ROUND, **more})
    return servers.start(name, app="custom:app", workers=2, **{**ROUND, **more})


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return servers.value(samples, name, **labels)


def queue_owner(samples: Samples) -> int | None:
    """Return the pid of the worker that asks the application's queue."""
    found = [dict(labels)["pid"] for labels in live.labelled(samples, "queue_server_info")]
    return int(found[0]) if found else None


def until(server: LiveServer, *conditions: Any) -> Samples:
    return live.eventually(server.samples, lambda found: all(condition(found) for condition in conditions))


@pytest.mark.parametrize("name", NAMES)
def test_collectors_and_functions_are_on_the_page(name: str) -> None:
    """
    Each worker's figures are merged by their mode, those of the application, or of a mode that there is not, are there once; a
    collector that raises, hangs or forks costs its own figures.
    """
    expected = {
        ("answer",): 42.0, ("pool_opened_total",): 4.0, ("pool_wait_count",): 4.0, ("pool_wait_sum",): 10.0, ("forked",): 1.0,
        ("misspelt",): 1.0,
        ("queue_length", "mail"): 3.0, ("mixed", "function"): 20.0, ("mixed", "set"): 0.0,
    }  # fmt: skip

    def shown(found: Samples) -> dict[tuple[str, ...], float]:
        names = {name for name, *_ in expected}
        return {(name, *dict(labels).values()): v for (name, labels), v in found.items() if name in names}

    with start(name) as server:
        live.eventually(lambda: shown(server.samples()), expected.__eq__)
        found = server.samples()
        assert {0.0, 1.0, 2.0} >= {float(dict(labels)["pid"]) for labels in live.labelled(found, "threads")}
        log = live.eventually(server.log, lambda log: log.count("Hanging has not answered") == 2)
        live.eventually(lambda: shown(server.samples()), expected.__eq__)
        found = server.samples()
        assert {} == live.labelled(found, "broken")
        # One that raises, and a function, in each worker, and one that hangs, which is asked once.
        assert [2, 2] == [log.count(f"{what} has failed") for what in ("custom.Failing", "Gauge broken")]
        assert 0 == log.count("Traceback")
        assert "multiprocess_mode='sums' of the collector Misspelt is none of all, liveall," in log
        assert 6.0 < (value(found, "wsgi_prom_errors_total", stage="collect") or 0)
        assert 2.0 == value(found, "calls_total", collector="hanging")
        # Scrapes and requests of the application itself know them too.
        live.eventually(
            lambda: shown(live.parse_samples(server.get("/own-metrics").body.decode())), expected.__eq__
        )


@pytest.mark.parametrize("name", servers.BOTH)
def test_another_worker_takes_over(name: str) -> None:
    """The figures of the application outlive the worker that asks for them; those of the worker itself do not."""
    with start(name, WSGI_PROM_COLLECT_SECONDS="5") as server:
        found = until(server, queue_owner, lambda found: len(live.labelled(found, "threads")) == 2)
        owner = queue_owner(found)
        assert owner in server.workers()
        server.signal_child(owner, signal.SIGKILL)
        owners = [owner]
        while owners[-1] == owner:
            owners.append(queue_owner(server.samples()))
        assert owners[-1] in server.workers()
        until(server, lambda found: value(found, "mixed", kind="function") == 20)


def test_a_stopped_worker_has_no_figures_and_a_collector_comes_and_goes() -> None:
    """What a stopped worker has told is shown for three rounds; what is registered later is shown, and gone when it is unregistered."""
    # gunicorn would kill it.
    with live.gunicorn("custom:app", "--timeout", "600", workers=2, **ROUND) as server:
        until(server, lambda found: value(found, "mixed", kind="function") == 20)
        (pid, other) = server.workers()
        server.signal_child(other, signal.SIGSTOP)
        until(server, lambda found: value(found, "mixed", kind="function") == 10)
        assert pid == int(server.get("/register").body)
        until(server, lambda found: value(found, "late") == 1)
        server.get("/unregister")
        found = until(server, lambda found: value(found, "late") is None)
        assert {"set"} == {dict(labels)["kind"] for labels in live.labelled(found, "mixed")}
        assert 2.0 == value(found, "pool_opened_total")
        server.signal_child(other, signal.SIGCONT)
        until(server, lambda found: value(found, "pool_opened_total") == 4)


def test_recycled_workers_tell_no_less() -> None:
    """Workers that end after each request take the application's figures with them no more than a reload does."""
    with live.gunicorn("custom:app", "--max-requests", "1", "--preload", workers=2) as server:
        until(server, lambda found: value(found, "queue_length", queue="mail") == 3)
        for _ in range(4):
            server.get("/")
            assert 3.0 == value(server.samples(), "queue_length", queue="mail")
        until(server, lambda found: value(found, "pool_opened_total") == 4)


@pytest.mark.parametrize("name", servers.BOTH)
def test_nothing_runs_where_nothing_is_registered(name: str) -> None:
    """A worker of an application without collectors has one thread, and the directory has no file of them."""
    with servers.start(name, workers=1, **ROUND) as server:
        server.get("/")
        server.samples()
        (worker,) = server.workers()
        assert 1 == len(os.listdir(f"/proc/{worker}/task"))
        names = os.listdir(servers.shared_directory(server))
    assert [] == [name for name in names if name.endswith(".answers")]


def test_the_documentation_shows_what_there_is(tmp_path: Path) -> None:
    """The application of docs/collectors.md has the page that the document shows."""
    blocks = documents.blocks((live.ROOT / "docs" / "collectors.md").read_text())
    (tmp_path / "shop.py").write_text(next(block.text for block in blocks if block.file == "shop.py"))
    (_, curl) = documents.steps(next(block.text for block in blocks if block.language == "console"))

    def shown(page: str) -> str:
        return "".join(f"{line}\n" for line in page.splitlines() if line.startswith("shop_"))

    with live.gunicorn("shop:app", "--chdir", str(tmp_path), workers=2) as server:
        page = live.eventually(server.scrape, lambda page: shown(page) == curl.shown)
    assert curl.shown == shown(page)


FORKING = """
import os, sys, time
from prometheus_client import Counter, Gauge
import wsgi_prom
from wsgi_prom.client import patch
patch.install()
hits = Counter("hits", "H")
Gauge("alive", "A", multiprocess_mode="livesum").set_function(lambda: 1)
threads = lambda: len(os.listdir("/proc/self/task"))
assert threads() == 1
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        hits.inc()
        os.write(1, f"{threads() > 1}\\n".encode())
        sys.stdin.read()
        sys.exit()
    children.append(pid)
sys.stdout.close()
for pid in children:
    os.waitpid(pid, 0)
assert threads() == 1
"""


def test_processes_that_no_hook_forks_have_figures_too(shared: Path) -> None:
    """A process asks as soon as it records, whoever has forked it, and ends at once, whatever its thread does."""
    from wsgi_prom.merge.collector import Collector

    shared.mkdir(mode=0o700)
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared), "PYTHONPATH": str(live.ROOT), **ROUND}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FORKING],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert ["True\n", "True\n"] == [process.stdout.readline(), process.stdout.readline()]

        def figures() -> list[float]:
            return [
                sample.value for metric in Collector(shared).collect().others for sample in metric.samples
            ]

        assert [2.0] == live.eventually(figures, lambda found: found == [2.0])
        process.communicate(timeout=live.STOP_SECONDS)
    assert 0 == process.returncode
    assert [] == figures()
