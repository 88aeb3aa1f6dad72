"""Threads that record at the same time: without a lock on CPython with its global lock, and with one elsewhere."""

from __future__ import annotations

import dis
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from interruptions import needs_speed

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.client.slot_values import SlotValue
from wsgi_prom.merge.collector import Collector
from wsgi_prom.request.measurement import begin_of, record_of
from wsgi_prom.request.recorder import Recorder
from wsgi_prom.settings import Settings
from wsgi_prom.store import unlocked
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

THREADS, REQUESTS = 4, 10_000


def app(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x"]


def stream(_environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"x"


def request(measured: Any) -> None:
    result = measured({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    try:
        for _ in result:
            pass
    finally:
        getattr(result, "close", int)()


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
        if sample.labels.get("status") != "500"
    }


@pytest.mark.parametrize("locked", [True, False], ids=["with a lock", "without"])
def test_threads_lose_nothing(locked: bool, in_child: Callable[..., Any], shared: Path) -> None:
    """Threads lose no record, with the lock and without."""

    def run() -> dict[str, float]:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        sys.setswitchinterval(1e-6)
        unlocked.needs_lock = lambda: locked
        measured = PrometheusMiddleware(app)
        request(measured)

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


@needs_speed
@pytest.mark.parametrize("locked", [True, False], ids=["with a lock", "without"])
@pytest.mark.parametrize("app", [app, stream], ids=["complete", "streamed"])
def test_what_a_signal_handler_raises_keeps_no_lock(
    app: Any, locked: bool, in_child: Callable[..., Any], shared: Path
) -> None:
    """Wherever a signal handler raises in a request, the lock is free afterwards, and requests in progress are 0."""

    def run() -> tuple[bool, float]:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        if locked:
            unlocked.needs_lock = lambda: True
        measured = PrometheusMiddleware(app)
        end = threading.Event()
        threading.Thread(target=end.wait, args=(60,), daemon=True).start()

        def out_of_time(*_: object) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, out_of_time)
        raised = 0
        while raised < 800:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + 0.000000025 * raised)
                for _ in range(100):
                    request(measured)
            except TimeoutError:
                pass
            raised += 1
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        free: list[bool] = []
        other = threading.Thread(target=lambda: free.append(current_slot.lock.acquire(timeout=10)))
        other.start()
        other.join()
        end.set()
        return free[0], counted(shared)["http_requests_in_progress"]

    assert (True, 0.0) == in_child(run)


# Where a stretch that takes no lock may end, and the lines of it that are only for those that take one.
ENDS = {"finally:", "return", "request.token = token", "request.token = request.environ[REQUEST] = None"}
LOCKED = re.compile(r"in_progress\.enter\(")


def stretches(code: CodeType) -> list[set[str]]:
    """Return the instructions between each look at `current_slot.token` and the last store, but for the lock's own."""
    source = Path(code.co_filename).read_text().splitlines()
    of_line: dict[int, set[str]] = {}
    starts = dict(dis.findlinestarts(code))
    line = 0
    for found in dis.get_instructions(code):
        line = starts.get(found.offset) or line
        of_line.setdefault(line, set()).add(found.opname)
    found_stretches = []
    for first in sorted(line for line in of_line if "current_slot.token" in source[line - 1]):
        last = next(line for line in range(first, len(source)) if source[line - 1].strip() in ENDS)
        lines = [line for line in range(first, last + 1) if not LOCKED.search(source[line - 1])]
        found_stretches.append(set().union(*(of_line.get(line, set()) for line in lines)))
    return found_stretches


@pytest.mark.skipif(unlocked.needs_lock(), reason="needs CPython with its own lock")
def test_nothing_is_called_between_a_look_up_and_its_stores(in_child: Callable[..., Any]) -> None:
    """
    Between a look-up and its stores no instruction lets another thread, a signal handler or the garbage collector run.
    """

    def run() -> dict[str, list[set[str]]]:
        recorder = Recorder(Settings.read())
        return {
            function.__name__: stretches(function.__code__)
            for function in (begin_of(recorder), record_of(recorder), SlotValue.inc)
        }

    found = in_child(run)
    assert {"begin": 1, "record": 1, "inc": 1} == {name: len(each) for name, each in found.items()}
    names = set().union(*(stretch for each in found.values() for stretch in each))
    assert "STORE_SUBSCR" in names
    # A method is loaded to be called, and a container is what a collection may begin with.
    assert [] == sorted(
        name
        for name in names
        if re.search(
            "CALL|LOAD_METHOD|JUMP_BACK|JUMP_ABSOLUTE|FOR_ITER|BUILD|LIST|YIELD|SEND|RESUME|IMPORT|MAKE", name
        )
    )
