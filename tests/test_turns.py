"""Threads that record at the same time, and the only thread of a process, which takes no lock."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.storage import turns
from wsgi_prom.storage.collector import Collector
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THREADS, REQUESTS = 4, 20_000


def app(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]


def request(measured: Any) -> None:
    measured({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)


def together(work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def counted(path: Path) -> dict[str, float]:
    """Return the count of requests, their bytes and those in progress, as a new collector shows them."""
    return {
        sample.name: sample.value
        for metric in Collector(path).collect().to_metrics()
        for sample in metric.samples
        if sample.name in {"http_requests_total", "http_response_size_bytes_sum", "http_requests_in_progress"}
    }


@pytest.mark.parametrize("known", [True, False], ids=["known", "younger than a second"])
def test_threads_lose_nothing(known: bool, in_child: Callable[..., Any], shared: Path) -> None:
    """Also those that have begun since somebody looked last whether there are any, as they have no lock."""

    def run() -> dict[str, float]:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        sys.setswitchinterval(1e-6)
        measured = PrometheusMiddleware(app)
        request(measured)
        if not known:
            turns.others = lambda: False

        def work() -> None:
            for _ in range(REQUESTS):
                request(measured)

        together(work)
        return counted(shared)

    total = 1 + THREADS * REQUESTS
    assert {
        "http_requests_total": total,
        "http_response_size_bytes_sum": total,
        "http_requests_in_progress": 0,
    } == in_child(run)


def test_what_a_signal_handler_raises_keeps_no_lock(in_child: Callable[..., Any], shared: Path) -> None:
    """Wherever it comes in a request: others have the lock after it, and nothing stays in progress, nor below 0."""

    def run() -> tuple[bool, float]:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        measured = PrometheusMiddleware(app)
        end = threading.Event()
        threading.Thread(target=end.wait, args=(60,), daemon=True).start()

        def out_of_time(*_: object) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, out_of_time)
        raised = 0
        while raised < 2000:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + 0.00000001 * raised)
                for _ in range(100):
                    request(measured)
            except TimeoutError:
                pass
            raised += 1
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        free: list[bool] = []
        other = threading.Thread(target=lambda: free.append(lease.lock.acquire(timeout=10)))
        other.start()
        other.join()
        end.set()
        return free[0], counted(shared)["http_requests_in_progress"]

    assert (True, 0.0) == in_child(run)


def test_other_threads_are_noticed(in_child: Callable[..., Any]) -> None:
    """There are none in a process of one thread, and some while another runs, whether or not threading knows it."""

    def run() -> list[bool]:
        import _thread  # as a server in C starts its own

        found = [turns.others()]
        begun, end = threading.Event(), threading.Event()
        _thread.start_new_thread(lambda: (begun.set(), end.wait(30)), ())
        begun.wait(30)
        found.append(turns.others())
        end.set()
        return found

    assert [False, True] == in_child(run)


def test_a_child_of_a_process_with_threads_looks_for_itself(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """The threads of its parent are not there, and its requests take no lock."""

    def run() -> list[bool]:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        measured = PrometheusMiddleware(app)
        end = threading.Event()
        threading.Thread(target=end.wait, args=(60,), daemon=True).start()
        request(measured)
        found = [lease.threads]
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            request(measured)
            os.write(write, bytes([lease.threads]))
            os._exit(0)
        os.waitpid(pid, 0)
        found.append(bool(os.read(read, 1)[0]))
        end.set()
        return found

    assert [True, False] == in_child(run)


def test_a_lock_is_waited_for_however_long_it_is_held(in_child: Callable[..., Any]) -> None:
    """A thread that has stepped back often enough waits, and has the lock when it is released."""

    def run() -> list[str]:
        lock, held = threading.RLock(), threading.Event()
        events: list[str] = []

        def hold() -> None:
            with lock:
                held.set()
                time.sleep(0.3)
                events.append("released")

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        turns.take(lock)
        events.append("taken")
        lock.release()
        thread.join()
        return events

    assert ["released", "taken"] == in_child(run)
