"""
The chaotic application with requests that record from wherever a program may: children, handlers, greenlets, finalizers.

Each adds a number that is known to `app_recorded_total`. Run as `forking:app`.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import chaotic
import plain
from prometheus_client import Counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

RECORDED = Counter("app_recorded_total", "By whom.", ["by"])
# Made here: labels() of the client library takes a lock, in which a handler or a finalizer must not ask for it again.
WAYS = (
    "child",
    "later",
    "multiprocessing",
    "subprocess",
    "program",
    "handler",
    "interrupted",
    "finalizer",
    "greenlet",
)
BY = {way: RECORDED.labels(way) for way in WAYS}
PYTHON = str(Path(sys.prefix) / "bin" / "python")
RECORD = """
from prometheus_client import Counter
Counter("app_recorded_total", "By whom.", ["by"]).labels({by!r}).inc()
"""

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork of a process with threads


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    handler = HANDLERS.get(environ["PATH_INFO"])
    if handler is None:
        return chaotic.app(environ, start_response)
    environ["wsgi_prom.route"] = environ["PATH_INFO"]
    return plain.text(start_response, handler() or "done")


def fork(function: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def child_that_exits() -> None:
    os.waitpid(fork(int), 0)


def child_that_records() -> None:
    os.waitpid(fork(BY["child"].inc), 0)


def child_that_goes_on() -> None:
    # Reaped by nobody of this process: it records when the request is long over.
    os.waitpid(fork(lambda: fork(lambda: (time.sleep(0.1), BY["later"].inc()))), 0)


def daemon() -> str:
    # Bounded: 20 s are more than the test waits for.
    pid = fork(lambda: (os.setsid(), time.sleep(20)))
    return f"{os.getpid()} {pid}"


def child_of_multiprocessing() -> None:
    child = multiprocessing.get_context("fork").Process(target=BY["multiprocessing"].inc)
    child.start()
    child.join()


def subprocess_with_the_package() -> None:
    # It imports an application that is wrapped by hand, and finds the server by the environment that it inherits.
    code = "import wrapped" + RECORD.format(by="subprocess")
    subprocess.run([PYTHON, "-c", code], cwd=Path(__file__).parent, check=True)


def subprocess_without_the_package() -> None:
    # For the client library alone there is no shared directory.
    subprocess.run([PYTHON, "-c", RECORD.format(by="program")], check=True)


def signals() -> None:
    # A handler may be interrupted by the next one anywhere: each takes a number in one step, and leaves a mark in one.
    numbers, marks = itertools.count(), []

    def handle(*_: object) -> None:
        if next(numbers) < 20:
            BY["handler"].inc()
            marks.append(None)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for _ in range(5000):
        BY["interrupted"].inc()
    while len(marks) < 20:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Finalized:
    def __init__(self) -> None:
        self.circle = self

    def __del__(self) -> None:
        BY["finalizer"].inc()


def finalizers() -> None:
    before = gc.get_threshold()
    gc.set_threshold(7)
    for number in range(50):
        Finalized()
        # Under the client library's locks and ours, with an allocation now and then.
        chaotic.STORM.labels(str(number)).inc()
    gc.set_threshold(*before)
    gc.collect()


def greenlets() -> None:
    import gevent

    def record() -> None:
        for _ in range(4):
            BY["greenlet"].inc()
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(record) for _ in range(5)])


HANDLERS: dict[str, Callable[[], str | None]] = {
    "/exits": child_that_exits,
    "/records": child_that_records,
    "/goes-on": child_that_goes_on,
    "/daemon": daemon,
    "/multiprocessing": child_of_multiprocessing,
    "/subprocess": subprocess_with_the_package,
    "/program": subprocess_without_the_package,
    "/signals": signals,
    "/finalizers": finalizers,
    "/greenlets": greenlets,
}
