"""What the tests of `wsgi-prom push` share: an application that records, the command, and readings made by hand."""

from __future__ import annotations

import contextlib
import socketserver
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import live
import waitress
from processes import Child, share
from prometheus_client import Counter, Gauge, Histogram

from wsgi_prom.client.patch import install
from wsgi_prom.push.reading import Child as Labelled
from wsgi_prom.push.reading import Metric, Reading, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wsgi_prom.push.reading import Labels


@contextlib.contextmanager
def application(shared: Path) -> Iterator[Callable[..., Any]]:
    """Yield a function that records in a process of its own: so many orders of a kind, a balance, waits in seconds."""
    made: list[Any] = []

    def record(kind: str, orders: float = 0, balance: float = 0, waits: Sequence[float] = ()) -> None:
        if not made:
            share(shared)
            install()
            made.append(Counter("shop_orders", "Orders.", ["kind"], registry=None))
            made.append(Gauge("shop_balance", "Balance.", registry=None, multiprocess_mode="livesum"))
            made.append(Histogram("shop_wait_seconds", "Wait.", registry=None, buckets=(0.1, 0.5, 2.5)))
        made[0].labels(kind).inc(orders)
        made[1].set(balance)
        for wait in waits:
            made[2].observe(wait)

    with Child(record) as child:
        yield child.call


def command(shared: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "wsgi_prom", "push", "--directory", str(shared), *options]


def pushing(shared: Path, *options: str, before: Sequence[str] = (), **env: str) -> live.LiveServer:
    """Return `wsgi-prom push` of *shared*, not yet started; *before* are words before the command."""
    return live.LiveServer(
        [*before, *command(shared, "--interval", "1", *options)], env=env, ready=(r"are sent to", 1)
    )


def once(shared: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Push one reading."""
    environ = live.environment(env, runtime=live.ROOT)
    return subprocess.run(
        command(shared, "--once", *options),
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Answer(NamedTuple):
    """What a receiver answers: a status, headers, a body."""

    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Http:
    """A receiver over HTTP: it keeps the requests, and gives each of *answers* once, in their order, and 200 then."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], bytes]] = []
        self.answers: list[Answer] = []
        self.url = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answer = self.answers.pop(0) if self.answers else Answer()
        start_response(answer.status, list(answer.headers))
        self.requests.append((environ, body))
        return [answer.body]

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests]


@contextlib.contextmanager
def http() -> Iterator[Http]:
    """Serve an `Http` from a thread."""
    app = Http()
    server = waitress.create_server(app, host="127.0.0.1", port=0, asyncore_use_poll=True)
    app.url = f"http://127.0.0.1:{server.effective_port}/"
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield app
    finally:
        # In its own thread, whose loop ends once it has no sockets; the trigger's only after it has been written to.
        pulled = threading.Event()
        server.trigger.pull_trigger(lambda: pulled.wait() and waitress.wasyncore.close_all(server._map))
        pulled.set()
        thread.join(live.STOP_SECONDS)
        server.task_dispatcher.shutdown()


def metric(kind: str, name: str, *children: tuple[Labels, Sequence[Sample]], start: float = 0.0) -> Metric:
    return Metric(
        name, kind, "Help.", "", [Labelled(labels, start, tuple(found)) for labels, found in children]
    )


def histogram(
    name: str, labels: Labels, counts: dict[str, float], total: float, start: float = 0.0
) -> Metric:
    """Return a histogram with one label set; *counts* are those of the buckets, by `le`."""
    buckets = [Sample(f"{name}_bucket", (("le", le),), count) for le, count in counts.items()]
    last = [*counts.values()][-1]
    return metric(
        "histogram",
        name,
        (labels, [*buckets, Sample(f"{name}_count", (), last), Sample(f"{name}_sum", (), total)]),
        start=start,
    )


def counter(name: str, labels: Labels, value: float, start: float = 0.0) -> Metric:
    return metric("counter", name, (labels, [Sample(f"{name}_total", (), value)]), start=start)


def gauge(name: str, labels: Labels, value: float) -> Metric:
    return metric("gauge", name, (labels, [Sample(name, (), value)]))


def reading(*metrics: Metric, time: float = 1000.0) -> Reading:
    return Reading(time, list(metrics))


@contextlib.contextmanager
def endless(head: bytes, part: bytes, pause: float) -> Iterator[str]:
    """Serve connections that get *head* and then *part* again and again, with *pause* seconds between; yield the address."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.recv(65536)
                self.request.sendall(head)
                while not ended.wait(pause):
                    self.request.sendall(part)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            ended.set()
            server.shutdown()
            thread.join(live.STOP_SECONDS)
