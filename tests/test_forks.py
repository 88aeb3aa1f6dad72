"""Forks while threads record: no child hangs at a lock of the client library, and each count is exact."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import live
import processes
import pytest
import servers
from chaos.scale import FULL, scale
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.client.patch import install
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import fork_locks
from wsgi_prom.store.environment import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FORKS = [os.fork, processes.fork_unseen]


def seen(fork: Callable[[], int]) -> int:
    """Fork, and do in the child what a server's hook does if Python's at-fork callbacks do not run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = fork()
    if pid == 0 and fork is processes.fork_unseen:
        fork_locks.free()
    return pid


class Holding:
    """A thread that holds a lock for the length of a `with` block."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._held = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with self._lock:
            self._held.set()
            self._over.wait(processes.WAIT_SECONDS)

    def __enter__(self) -> None:
        self._thread.start()
        self._held.wait(processes.WAIT_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def label_all(made: dict[str, Any]) -> None:
    made["counter"].labels("x").inc()
    made["gauge"].labels("x").set(1)
    made["summary"].labels("x").observe(1)
    made["histogram"].labels("x").observe(1)
    made["info"].labels("x").info({"a": "b"})
    made["plain info"].info({"a": "b"})
    made["enum"].state("off")
    Counter("t_late", "Help.", registry=made["registry"]).inc()
    generate_latest(made["registry"])


# Not made here: the metrics would be on the pages of other tests of this process.
KINDS = ["registry", "counter", "gauge", "summary", "histogram", "info", "plain info", "enum"]


def make_all() -> dict[str, Any]:
    """Make a metric of each kind that has a lock."""
    registry = CollectorRegistry()
    return {
        "registry": registry,
        "counter": Counter("t_counter", "Help.", ["page"], registry=registry),
        "gauge": Gauge("t_gauge", "Help.", ["page"], registry=registry),
        "summary": Summary("t_summary", "Help.", ["page"], registry=registry),
        "histogram": Histogram("t_histogram", "Help.", ["page"], registry=registry),
        "info": Info("t_info", "Help.", ["page"], registry=registry),
        "plain info": Info("t_plain", "Help.", registry=registry),
        "enum": Enum("t_enum", "Help.", states=["on", "off"], registry=registry),
    }


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("made", ["before", "after"])
def test_a_lock_that_a_thread_holds_at_the_fork_is_free_in_the_child(
    in_child: Callable[..., Any], made: str, fork: Callable[[], int]
) -> None:
    """Metrics and registries made before or after the installation can all be used in the child, whichever of the locks is held."""

    def run() -> None:
        if made == "after":
            install()
        made_for = {name: make_all() for name in KINDS}
        install()
        for name, metrics in made_for.items():
            with Holding(metrics[name]._lock):
                processes.in_child(lambda metrics=metrics: label_all(metrics), fork=lambda: seen(fork))
                assert not metrics[name]._lock.acquire(blocking=False), name  # the parent's is as it was

    in_child(run)


def test_the_lock_of_the_thread_that_forks_stays_its_own(in_child: Callable[..., Any]) -> None:
    """
    A child that is forked in the middle of labels(), by a finalizer or a signal handler, returns from it without an
    error.
    """

    def run() -> None:
        install()
        counter = Counter("t_hits", "Help.", ["page"], registry=None)
        counter._lock.acquire()
        processes.in_child(lambda: (counter.labels("x").inc(), counter._lock.release(), None)[-1])
        counter._lock.release()

    in_child(run)


def test_a_lock_goes_with_its_metric(in_child: Callable[..., Any]) -> None:
    """The locks to be freed at the next fork do not grow with metrics that are gone."""

    def run() -> bool:
        install()
        counter = Counter("t_hits", "Help.", ["page"], registry=None)
        lock = weakref.ref(counter._lock)
        del counter
        gc.collect()
        return lock() is None

    assert in_child(run)


class Requests:
    """The middleware around an application, and requests to it."""

    def __init__(self) -> None:
        self._app = PrometheusMiddleware(application)

    def send(self, path: str) -> None:
        response = self._app({"REQUEST_METHOD": "GET", "PATH_INFO": path}, lambda *_: lambda _: None)
        try:
            for _ in response:
                pass
        finally:
            getattr(response, "close", lambda: None)()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    start_response("200 OK", [])
    yield b"ok"


CHILDREN = 200 if scale is FULL else 24
AT_ONCE = 8
EACH = 10


class Recording:
    """Records of old and new label values, requests, and new metrics."""

    def __init__(self) -> None:
        self.counter = Counter("t_hits", "Help.", ["page"], registry=None)
        self.histogram = Histogram("t_seconds", "Help.", ["page"], registry=None)
        self.registry = CollectorRegistry()
        self.requests = Requests()

    def record(self, name: str) -> None:
        self.counter.labels("old").inc()
        self.counter.labels(name).inc()
        self.histogram.labels("old").observe(1)
        self.histogram.labels(name).observe(1)
        self.requests.send("/")

    def make(self, name: str) -> None:
        Gauge(f"t_made_{name}", "Help.", registry=self.registry).set(1)
        generate_latest(self.registry)


def test_children_of_a_process_whose_threads_record(in_child: Callable[..., Any], shared: Path) -> None:
    """Children that are forked at any instant neither hang nor count more or less than they recorded."""

    def run() -> tuple[int, dict[str, float]]:
        os.environ[VARIABLE] = str(shared)
        install()
        recording = Recording()
        recorded = [0] * 3
        over = threading.Event()

        def record(number: int) -> None:
            while not over.is_set():
                recording.record(f"parent {number} {recorded[number] % 300}")
                recording.make(f"{number}_{recorded[number]}") if recorded[number] < 50 else None
                recorded[number] += 1

        def record_in_child(name: str) -> None:
            for turn in range(EACH):
                recording.record(f"child {turn}")
            recording.make(name)

        threads = [threading.Thread(target=record, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            for first in range(0, CHILDREN, AT_ONCE):
                children = [processes.Child(record_in_child) for _ in range(AT_ONCE)]
                for number, child in enumerate(children):
                    child.send(f"child_{first + number}")
                for child in children:
                    with child:
                        child.receive()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        found = {
            sample.name + str(sorted(sample.labels.items())): sample.value
            for metric in Collector(shared).collect().to_metrics()
            for sample in metric.samples
        }
        return sum(recorded), found

    recorded, found = in_child(run)
    total = float(recorded + CHILDREN * EACH)
    assert recorded > 0
    for name in ("t_hits_total", "t_seconds_count", "t_seconds_sum"):
        assert total == found[f"{name}[('page', 'old')]"]
        assert total == sum(
            value for sample, value in found.items() if sample.startswith(name) and "'old'" not in sample
        )
        assert float(CHILDREN) == found[f"{name}[('page', 'child 0')]"]
    requests = {name: value for name, value in found.items() if name.startswith("http_requests_total")}
    assert [total] == [value for value in requests.values() if value]
    assert 0.0 == found["http_requests_in_progress[]"]


ROUNDS = 10 if scale is FULL else 2
PREFORK = {
    "gunicorn preload": lambda app: live.gunicorn(app, "--preload", workers=2),
    "uwsgi": lambda app: live.uwsgi("--enable-threads", app=app, workers=2),
    "uwsgi fork hooks": lambda app: live.uwsgi(
        "--enable-threads", "--py-call-uwsgi-fork-hooks", app=app, workers=2
    ),
}


@pytest.mark.parametrize(
    ("name", "app"),
    [
        ("gunicorn preload", "held:app"),
        ("gunicorn preload", "threaded:app"),
        ("uwsgi", "held:app"),
        # uWSGI alone, without wsgi_prom, hangs in each second worker if a thread of the master runs Python at the
        # fork: the interpreter's own lock stays with the thread (tried with an empty loop). Not so with its fork hooks.
        ("uwsgi fork hooks", "threaded:app"),
    ],
)
def test_workers_of_a_master_with_a_thread(name: str, app: str) -> None:
    """Workers that are forked while a thread of the master is in labels() all serve and count."""
    with PREFORK[name](app) as server:
        for _ in range(ROUNDS):
            killed = live.eventually(server.workers, lambda pids: len(pids) == 2)
            for pid in killed:
                server.signal_child(pid, signal.SIGKILL)
            workers = live.eventually(
                server.workers, lambda pids, killed=killed: len(set(pids) - set(killed)) == 2
            )
            assert not set(killed) & set(workers)
            driven = live.drive(server.url, ["/record?kind=a"] * 8)
            assert [] == driven.failed
        samples = server.samples()
    assert 8 * ROUNDS == servers.value(samples, "app_orders_total", kind="a")
    assert 8 * ROUNDS == servers.value(samples, "app_beats_total", kind="request")
    assert {("/record", "200"): 8 * ROUNDS} == servers.requests_counted(samples)


def test_a_mule_and_a_spooler_of_a_master_with_a_thread(tmp_path: Path) -> None:
    """A mule and a spooler that are forked while a thread of the master holds a lock count what they record."""
    options = ["--mule=held_mule.py", "--spooler", str(tmp_path), "--spooler-frequency", "1"]
    with live.uwsgi("--enable-threads", *options, app="held_spooler:app", workers=1, cwd=live.APPS) as server:
        expected = {"mule": 1.0, "spooler": 1.0}
        counted = live.eventually(
            lambda: {
                kind: servers.value(server.samples(), "app_beats_total", kind=kind) for kind in expected
            },
            lambda found: found == expected,
        )
        assert expected == counted
