"""Bounded labels: no request can add series without end, and an application that is wrapped twice is measured once."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import live
import pytest
import servers
from chaos.scale import scale

from wsgi_prom.store.label_limit import LabelSets

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS, METHODS = scale.hostile_paths, scale.hostile_paths // 10
CONNECTIONS = 8


def hostile_requests(seed: int) -> Iterator[bytes]:
    """Return random paths and methods, and header values that would break out of a label's quotes."""
    choice = random.Random(seed)
    nasty = [
        b'"',
        b"\\",
        b"'",
        b"{}",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"%0a%0d",
        b"\xe2\x80\xa8",
        b"#",
        b"\t",
        b"=,",
    ]

    def noise(length: int) -> bytes:
        return b"".join(choice.choice([*nasty, b"%d" % choice.randrange(10**6)]) for _ in range(length))

    for number in range(PATHS):
        path = b"/" + noise(3).replace(b"\t", b"").replace(b"#", b"")
        method = b"GET"
        if number % (PATHS // METHODS) == 0:
            method = bytes(choice.choices(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=choice.randrange(3, 18)))
        headers = b"Host: " + noise(2) if number % 3 else b"Host: localhost"
        headers += b"\r\nUser-Agent: " + noise(4)
        headers += b"\r\nX-Request-Start: " + choice.choice([b"t=", b""]) + noise(2)
        yield method + b" " + path + b" HTTP/1.0\r\n" + headers + b"\r\n\r\n"


def flood(url: str, requests: list[bytes]) -> None:
    """Send each request on a connection of its own, and read the answer."""
    address = urlsplit(url)
    for request in requests:
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((address.hostname, address.port), 30) as client,
        ):
            client.sendall(request)
            while client.recv(65536):
                pass


def resident_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def series(server: live.LiveServer) -> set[tuple[str, live.Labels]]:
    """Return all series of the application's server but those that only some requests have."""
    return {key for key in server.samples() if key[0].startswith("http_") and "queue" not in key[0]}


def size_of(folder: Path) -> int:
    return sum(found.st_size for found in servers.worker_files(folder).values())


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_flood_of_random_requests_adds_no_series_and_no_memory(name: str) -> None:
    """Thousands of paths, hundreds of methods and hostile headers add no series to those of the first few requests."""
    requests = list(hostile_requests(seed=1))
    with servers.start(name, workers=2) as server:
        flood(server.url, requests[:400])
        few, folder = series(server), servers.shared_directory(server)
        pids = [*server.workers(), *servers.supervisor_and_serving(server)]
        before = {pid: resident_kilobytes(pid) for pid in pids}
        size = size_of(folder)
        flood(server.url, requests[400:])
        many, page = series(server), live.request(server.metrics_url).body
        grown = {pid: resident_kilobytes(pid) - before[pid] for pid in pids}
        size_after = size_of(folder)
        status = server.get("/").status
    assert many == few
    # A worker that had not met a method yet writes down its label set; a line for each request would be a hundred times this.
    assert size_after - size < 1024
    assert {dict(labels).get("method", "GET") for _, labels in many} <= {"GET", "OTHER"}
    # Interpreters round up and fragment; a kilobyte for each request would be three times this, and in `make chaos` ten times.
    assert max(grown.values()) < 1024
    assert status == 200
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_limit_holds_on_a_real_server() -> None:
    """
    With raw paths as routes, the limit of label sets holds over all workers, each request is counted, and so is each
    that was folded.
    """
    with live.gunicorn("rawroutes:app", workers=3, WSGI_PROM_LABEL_LIMIT="50") as server:
        driven = live.drive(server.url, [f"/{number}" for number in range(300)])
        samples = server.samples()
    counted = servers.requests_counted(samples)
    folded = sum(count for (route, _), count in counted.items() if route == "OTHER")
    assert sum(driven.answered.values()) == 300
    assert len([route for route, _ in counted if route != "OTHER"]) == 50
    assert sum(counted.values()) == 300
    dropped = servers.value(samples, "wsgi_prom_dropped_series_total", metric="http_requests")
    assert dropped == folded == 250
    errors = live.labelled(samples, "http_request_exceptions_total")
    assert len(errors) <= 51


WRAPPED = {
    "by hand and by the hook": ("wrapped:app", "python:wsgi_prom.hooks.gunicorn"),
    "twice by hand": ("twice:app", "python:wsgi_prom.hooks.gunicorn"),
    "by a factory that is called twice": ("twice:made()", "python:wsgi_prom.hooks.gunicorn"),
    "in a module with two names": ("twice:other_app", "python:wsgi_prom.hooks.gunicorn"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_an_application_is_measured_once(case: str) -> None:
    """However often an application is wrapped, each request is one observation, and each series exists once."""
    app, config = WRAPPED[case]
    with live.gunicorn(app, workers=2, config=config) as server:
        live.drive(server.url, ["/"] * 50)
        samples = server.samples()  # raises at a duplicate
    assert {("/", "200"): 50} == servers.requests_counted(samples)


def test_the_debug_reloader_measures_once() -> None:
    """
    `flask run --debug` imports the application in a watcher and in a child; the child's requests are counted once.
    """
    command = [
        live.BIN / "flask",
        "--app",
        "debugged:flask_app",
        "run",
        "--debug",
        "--port",
        "0",
        "--no-debugger",
    ]
    address = re.compile(r"Running on (http://\S+)")
    with live.LiveServer(command, ready=(r"Debugger is active|Running on", 1), address=address) as server:
        for _ in range(5):
            answer = server.get("/hello")
        samples = live.parse_samples(server.get("/metrics").body.decode())
    assert answer.status == 200
    assert {("/hello", "200"): 5} == servers.requests_counted(samples)


def test_threads_that_meet_new_labels_at_once_are_all_allowed_them(tmp_path: Path) -> None:
    """Below the limit no label set becomes OTHER, however threads that meet new ones interleave."""
    label_sets = LabelSets(tmp_path, 10_000)
    together = threading.Barrier(8)

    def meet(thread: int) -> list[bool]:
        together.wait()
        return [label_sets.allow("hits", (str(thread), str(number))) for number in range(200)]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = [answer for found in pool.map(meet, range(8)) for answer in found]
    finally:
        sys.setswitchinterval(before)
        label_sets.close()
    assert [True] * 1600 == answers
