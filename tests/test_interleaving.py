"""Threads, handlers and forks that interrupt each other: each test makes one order of events happen."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def share(path: Path) -> None:
    from wsgi_prom.client import patch

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)
    patch.install()


def total(path: Path, name: str) -> float:
    """Return the sum of the samples called *name* that a new collector shows."""
    from wsgi_prom.merge.collector import Collector

    families = Collector(path).collect().to_metrics()
    return sum(sample.value for metric in families for sample in metric.samples if sample.name == name)


def test_a_log_handler_that_counts_its_records_does_not_deadlock(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """The handler holds its own lock when it makes a series, while another thread logs that it has no slot."""

    def run() -> bool:
        from prometheus_client import Counter

        share(shared)
        shared.write_text("in the way of a directory")
        logged = Counter("logged", "Help.", ["thread"], registry=None)
        plain = Counter("plain", "Help.", registry=None)

        class Counting(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                time.sleep(0.05)  # as to a slow stream
                logged.labels(str(record.msg)).inc()

        logging.getLogger().addHandler(Counting())
        chatter = threading.Thread(
            target=lambda: [logging.getLogger("app").warning(str(number)) for number in range(20)],
            daemon=True,
        )
        chatter.start()
        time.sleep(0.02)
        recording = threading.Thread(target=plain.inc, daemon=True)
        recording.start()
        recording.join(30)
        chatter.join(30)
        return recording.is_alive() or chatter.is_alive()

    assert not in_child(run)


def test_two_objects_of_one_series_are_added_up(in_child: Callable[..., Any], shared: Path) -> None:
    """Two counters of one name record before the directory is known; the slot then has the sum of both."""

    def run() -> float:
        from prometheus_client import CollectorRegistry, Counter

        from wsgi_prom.store.current_slot import current_slot

        share(shared)
        current_slot.defer()
        first = Counter("hits", "Help.", registry=CollectorRegistry())
        first.inc(5)
        second = Counter("hits", "Help.", registry=CollectorRegistry())
        second.inc(2)
        current_slot.attach(shared)
        return total(shared, "hits_total")

    assert 7.0 == in_child(run)


def test_what_a_signal_handler_raises_reaches_the_caller(in_child: Callable[..., Any]) -> None:
    """SystemExit, raised while a request waits for another thread's lock, is not swallowed."""

    def run() -> bool:
        from wsgi_prom import PrometheusMiddleware
        from wsgi_prom.store.current_slot import current_slot

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [b"x"]

        def stop(*_: object) -> None:
            raise SystemExit(3)

        measured = PrometheusMiddleware(app)
        signal.signal(signal.SIGTERM, stop)
        held = threading.Event()

        def hold() -> None:
            with current_slot.lock:
                held.set()
                time.sleep(1)

        threading.Thread(target=hold).start()
        held.wait()
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        try:
            measured({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
        except SystemExit:
            return True
        return False

    assert in_child(run)


def test_a_flood_of_label_sets_without_a_slot_tries_for_one_once_a_second(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """A process whose files are gone and whose directory cannot be made keeps new label sets without a try for each."""

    def run() -> tuple[int, float]:
        from prometheus_client import Counter

        from wsgi_prom.store.current_slot import current_slot

        share(shared)
        counter = Counter("hits", "Help.", ["number"], registry=None)
        counter.labels("first").inc()
        for path in shared.iterdir():
            path.unlink()
        shared.rmdir()
        shared.write_text("in the way")
        opened: list[object] = []
        sys.addaudithook(lambda event, values: opened.append(values[0]) if event == "open" else None)
        began = time.monotonic()
        current_slot.check()
        for number in range(500):
            counter.labels(str(number)).inc()
        # Each try opens the directories from the root on.
        return opened.count("/"), time.monotonic() - began

    tries, seconds = in_child(run)
    assert 1 <= tries <= 2 + seconds
