"""The listen queues of a server on its page."""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import live
import pytest
import servers

from wsgi_prom.errors import FormatError
from wsgi_prom.server.listen_queues import ListeningSocket
from wsgi_prom.server.queue_metrics import QueueMetrics
from wsgi_prom.server.sock_diag import Listener
from wsgi_prom.server.sources import Sources
from wsgi_prom.store import directory, queue_totals
from wsgi_prom.store.exporter_files import QUEUES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEB = ListeningSocket("127.0.0.1:8000", 1, int(socket.AF_INET), 8000, deferred=False)


def connect(address: str | tuple[str, int], path: str) -> socket.socket:
    """Connect and send a request for *path*, whose answer nobody waits for."""
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    client.connect(address)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("name", ["gunicorn sync", "gunicorn unix", "uwsgi prefork"])
def test_two_busy_workers_and_seven_that_wait(name: str, clients: ExitStack, tmp_path: Path) -> None:
    """While both workers are busy, seven connections wait: two are busy, none is idle, and the kernel counts seven."""
    unix = tmp_path / "app.sock"
    options = ("--bind", f"unix:{unix}") if "unix" in name else ()
    with servers.start("gunicorn sync" if options else name, *options, workers=2) as server:
        host, _, port = server.url.rstrip("/").rpartition("//")[2].partition(":")
        address = str(unix) if options else (host, int(port))
        label = f"unix:{unix}" if options else f"{host}:{port}"
        live.eventually(
            lambda: servers.value(server.samples(), "wsgi_workers", state="idle"), lambda idle: idle == 2
        )
        before = server.samples()
        for _ in range(2):
            clients.enter_context(connect(address, "/sleep?s=8"))
        live.eventually(
            lambda: servers.value(server.samples(), "wsgi_workers", state="busy"), lambda busy: busy == 2
        )
        for _ in range(7):
            clients.enter_context(connect(address, "/"))
        during = live.eventually(
            server.samples, lambda found: servers.value(found, "wsgi_listen_queue", socket=label) == 7
        )
        after = live.eventually(
            server.samples, lambda found: servers.value(found, "wsgi_listen_queue", socket=label) == 0
        )
    assert servers.value(before, "wsgi_listen_queue", socket=label) == 0
    assert (2, 0) == tuple(servers.value(during, "wsgi_workers", state=state) for state in ("busy", "idle"))
    assert (servers.value(during, "wsgi_listen_queue_limit", socket=label) or 0) >= 7
    assert (servers.value(after, "wsgi_listen_queue_seconds_total", socket=label) or 0) > 0
    assert [] == servers.gone_back(before, during) + servers.gone_back(during, after)


@pytest.mark.parametrize("name", servers.BOTH)
def test_the_seconds_that_two_connections_wait_add_up(name: str) -> None:
    """While the only worker is busy two connections wait for it, and the counter grows by what their clients have waited."""
    with servers.start(name, workers=1) as server, ThreadPoolExecutor(3) as pool:
        label = server.url.rstrip("/").rpartition("//")[2]
        live.eventually(
            lambda: servers.value(server.samples(), "wsgi_workers", state="idle"), lambda idle: idle == 1
        )
        before = servers.value(server.samples(), "wsgi_listen_queue_seconds_total", socket=label)
        busy = pool.submit(server.get, "/sleep?s=3")
        live.eventually(
            lambda: servers.value(server.samples(), "wsgi_workers", state="busy"), lambda number: number == 1
        )

        def waited() -> float:
            began = time.monotonic()
            assert 200 == server.get("/").status
            return time.monotonic() - began

        clients = [pool.submit(waited) for _ in range(2)]
        assert 200 == busy.result().status
        seconds = sum(client.result() for client in clients)
        samples = live.eventually(
            server.samples, lambda found: servers.value(found, "wsgi_listen_queue", socket=label) == 0
        )
    after = servers.value(samples, "wsgi_listen_queue_seconds_total", socket=label)
    assert before is not None and after is not None
    assert pytest.approx(seconds, rel=0.2) == after - before


def drops(metrics: QueueMetrics) -> float:
    (sample,) = metrics.families()[3].samples
    return sample.value


def listeners(drops_by_inode: dict[int, int]) -> dict[str, list[Listener]]:
    return {
        WEB.name: [Listener(inode, "127.0.0.1", 0, 128, count) for inode, count in drops_by_inode.items()]
    }


def test_drops_never_go_back() -> None:
    """The kernel's count begins again with a new socket, and after 2^32; the counter goes on."""
    seen = iter([5, 7, 3, 4, 2**32 - 1, 1])
    metrics = QueueMetrics((WEB,), lambda _: listeners({1: next(seen)}))
    assert [5, 7, 10, 11, 2**32 + 6, 2**32 + 8] == [drops(metrics) for _ in range(6)]


def test_the_drops_of_workers_that_share_a_port_are_counted_once() -> None:
    """A worker that ends, or is replaced by another with a socket of its own, leaves the others' drops counted as they are."""
    seen = iter(
        [
            {1: 100, 2: 100, 3: 100},
            {1: 100, 2: 110, 3: 100},
            {2: 110, 3: 100},
            {2: 110, 3: 110, 4: 0},
            {2: 110, 3: 110, 4: 7},
        ]
    )
    metrics = QueueMetrics((WEB._replace(inode=None),), lambda _: listeners(next(seen)))
    assert [300, 310, 310, 320, 327] == [drops(metrics) for _ in range(5)]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    directory.prepare(path)
    return path


class Exporter:
    """An exporter that has just started in *path*, with the *drops* of the kernel by inode, and a clock that tests move."""

    def __init__(self, path: Path, drops: dict[int, int]) -> None:
        self.drops = drops
        self.metrics = QueueMetrics((WEB,), lambda _: self._listeners(), lambda: self._now)
        self._waiting = 0
        self._now = 0.0
        self.metrics.go_on(path)

    def wait(self, seconds: float) -> None:
        """Have one connection wait for *seconds*."""
        self.metrics.look()
        self._waiting = 1
        self._now += seconds
        self.metrics.look()
        self._waiting = 0

    def _listeners(self) -> dict[str, list[Listener]]:
        (found,) = listeners(self.drops).values()
        return {WEB.name: [found[0]._replace(length=self._waiting), *found[1:]]}


def counters(metrics: QueueMetrics) -> list[float]:
    """Return the seconds and the drops."""
    return [family.samples[0].value for family in metrics.families()[2:]]


def test_an_exporter_goes_on_from_the_counters_of_the_one_before(shared: Path) -> None:
    """Seconds and drops are those of the last page, and more; a listener that has ended meanwhile stays in the drops."""
    first = Exporter(shared, {1: 5, 2: 2**32 - 1})
    first.wait(1.25)
    first.metrics.families()
    first.drops = {1: 6, 2: 2**32 - 1}
    first.wait(0.5)
    shown = counters(first.metrics)
    first.wait(1.5)  # on no page
    second = Exporter(shared, {2: 3, 3: 1})
    again = counters(second.metrics)
    second.drops = {2: 4, 3: 1}
    second.wait(1.0)
    expected = [[1.75, 2**32 + 5], [1.75, 2**32 + 10], [2.75, 2**32 + 11]]
    assert expected == [shown, again, counters(second.metrics)]
    assert (shared / QUEUES).stat().st_mode & 0o777 == 0o600
    other = QueueMetrics((WEB._replace(name="127.0.0.1:9"),), lambda _: {"127.0.0.1:9": []})
    other.go_on(shared)
    assert 0 == other.families()[2].samples[0].value


NAME = WEB.name.encode()
NO_TOTALS = [
    b"7", b"[]", b"{", b"\xff", b"[" * 9999, b" " * (1 << 21), b'{"%s": 7}' % NAME, b'{"%s": [1.0, 2]}' % NAME,
    b'{"%s": [1, 2, []]}' % NAME, b'{"%s": [-1.0, 2, []]}' % NAME, b'{"%s": [NaN, 2, []]}' % NAME,
    b'{"%s": [1.0, 2.5, []]}' % NAME, b'{"%s": [1.0, 2, [7]]}' % NAME, b'{"%s": [1.0, 2, [[7, true]]]}' % NAME,
    b'{"%s": [1.0, 2, [[7, 8, 9]]]}' % NAME,
]  # fmt: skip


@pytest.mark.parametrize("data", NO_TOTALS, ids=lambda data: data[:60].decode(errors="replace"))
def test_what_is_no_file_of_queues_is_replaced(shared: Path, data: bytes) -> None:
    """The exporter begins anew, and what it counts is there for the next one."""
    (shared / QUEUES).write_bytes(data)
    with pytest.raises(FormatError):
        queue_totals.read(shared)
    exporter = Exporter(shared, {1: 3})
    exporter.wait(0.5)
    assert [0.5, 3] == counters(exporter.metrics) == counters(Exporter(shared, {1: 3}).metrics)


def test_a_start_clears_the_queues_of_an_earlier_server(shared: Path) -> None:
    """They were other sockets."""
    counters(Exporter(shared, {1: 3}).metrics)
    directory.clear(shared, directory.prepare(shared))
    assert [] == list(shared.glob(f"{QUEUES}*"))


def test_a_source_that_fails_costs_its_own_metrics_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Where the kernel knows none of the sockets' kinds, the other sources are on the page, and one warning says so."""
    sources = Sources(hooked=True, concurrency=1, sockets=(WEB._replace(family=99),), stats="")
    with caplog.at_level(logging.WARNING, "wsgi_prom"):
        now = time.monotonic()
        found = [sources.families([], now + turn, now + 60) for turn in range(2)]
    assert [[[]], [[]]] == found
    assert "wsgi_workers" in {family.name for family in sources.workers([])}
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("the kernel's listen queues cannot be read")


def test_uwsgis_stats_are_on_the_page(tmp_path: Path) -> None:
    """Where uWSGI has a stats server, its figures are on the page under the names of uwsgi_exporter."""
    with servers.start("uwsgi prefork", "--stats", str(tmp_path / "stats.sock"), workers=2) as server:
        live.drive(server.url, ["/"] * 5)
        samples = live.eventually(
            server.samples,
            lambda found: sum(live.labelled(found, "uwsgi_worker_requests_total").values()) == 5,
        )
    assert servers.value(samples, "uwsgi_up") == 1
