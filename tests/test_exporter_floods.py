"""Clients that are slow, many, endless or silent: bounded memory and descriptors, and a good scrape is answered."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import exporters
import live
import pytest

from wsgi_prom.exporter.http import channel

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1024 * 1024
# A page of 0.8 MB: a copy of one that is larger than 1 MB would be in a file, and not be seen in the memory.
SERIES = 9500
PAGE = 800_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.LiveServer]:
    directory = tmp_path_factory.mktemp("floods") / "shared"
    exporters.fill(directory, SERIES)
    with exporters.serve(directory) as server:
        assert MEGABYTE > len(scrape(server)) > PAGE
        yield server
        assert [] == exporters.complaints(server)


def scrape(server: live.LiveServer) -> bytes:
    answer = live.request(server.metrics_url)
    assert answer.status == 200
    return answer.body


def calm(server: live.LiveServer) -> int:
    """Return the exporter's memory when all clients have left."""
    assert live.eventually(lambda: exporters.descriptors(server), lambda found: found < 20) < 20
    return exporters.memory(server)


def test_thousands_who_say_nothing(server: live.LiveServer) -> None:
    """2,500 connections, more than there is room for: each good scrape among them is answered, for 20 KB a client."""
    before = calm(server)
    with exporters.crowd(server, 2500):
        pages = [scrape(server) for _ in range(3)]
        assert exporters.descriptors(server) <= 1100
        assert exporters.memory(server) - before < 64 * MEGABYTE
    assert 3 == len(pages)
    assert calm(server) - before < 48 * MEGABYTE


def test_a_thousand_who_do_not_read(server: live.LiveServer) -> None:
    """1,000 clients ask for a page of 0.8 MB and read nothing of it: it is in memory once, and others are answered."""
    before = calm(server)
    with exporters.crowd(server, 1000, exporters.GET, window=4096):
        for _ in range(3):
            scrape(server)
        assert exporters.descriptors(server) > 900
        assert exporters.memory(server) - before < 64 * MEGABYTE
    assert calm(server) - before < 48 * MEGABYTE


def test_readers_who_stay_behind(server: live.LiveServer) -> None:
    """Clients who each keep another page of 0.8 MB: beyond 64 MB those who read the oldest pages are disconnected, the last is served."""
    before = calm(server)
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(110):
            readers.append(stack.enter_context(exporters.connect(server, window=4096)))
            readers[-1].sendall(exporters.GET)
            assert readers[-1].recv(12) == b"HTTP/1.1 200"
        assert exporters.memory(server) - before < 120 * MEGABYTE
        assert live.eventually(lambda: exporters.descriptors(server), lambda found: found < 100) < 100
        _, _, body = exporters.until_closed(closing(readers[-1])).partition(b"\r\n\r\n")
        first = exporters.until_closed(readers[0])
    assert len(body) > PAGE
    assert len(first) < PAGE
    calm(server)


def closing(connection: socket.socket) -> socket.socket:
    connection.shutdown(socket.SHUT_WR)
    return connection


def test_a_slow_reader_beside_one_that_scrapes_in_a_loop(server: live.LiveServer) -> None:
    """A client that stops in the middle of its page gets the rest, however many pages another one has read meanwhile."""
    with exporters.connect(server, window=4096) as slow:
        slow.sendall(exporters.GET)
        begun = slow.recv(1000)
        # As many as make more than 64 MB.
        for _ in range(90):
            scrape(server)
        rest = exporters.until_closed(closing(slow))
    assert len(begun + rest) > PAGE


def test_a_flood_of_filtered_scrapes(server: live.LiveServer) -> None:
    """Of 600 scrapes with name[] at once each is answered with its page or told to come again, and a good scrape is answered."""
    query = b"GET /metrics?name[]=filled_total HTTP/1.1\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    with exporters.crowd(server, 600, query) as clients:
        scrape(server)
        answers = {exporters.until_closed(client)[9:12] for client in clients}
    assert {b"200", b"503"} == answers
    calm(server)


DRIPS = {
    "nothing": b"",
    "a head": b"GET /metrics HTTP/1.1\r\nX-Slow: " + b"a" * 1000,
    "blank lines": b"\r\n" * 1000,
    "a body": b"GET /metrics HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"a" * 900,
    "chunks": b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200,
    "an expectation": b"GET /metrics HTTP/1.1\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n" + b"a" * 900,
}  # fmt: skip


def test_a_byte_now_and_then_puts_no_deadline_off(server: live.LiveServer) -> None:
    """Whatever is sent slowly, byte by byte, the connection ends when the time for a request's head is over."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(exporters.connect(server)) for name in DRIPS}
        rest = {name: data[80:] for name, data in DRIPS.items()}
        for name, client in clients.items():
            client.sendall(DRIPS[name][:80])
            client.setblocking(False)
        lived = {}
        while clients and time.monotonic() < started + exporters.SECONDS:
            for name in list(clients):
                try:
                    clients[name].send(rest[name][:1])
                    rest[name] = rest[name][1:]
                    over = clients[name].recv(100) == b""
                except BlockingIOError:
                    over = False
                except ConnectionError:
                    over = True
                if over:
                    del clients[name]
                    lived[name] = time.monotonic() - started
            time.sleep(0.1)
        scrape(server)
    assert set(DRIPS) == set(lived)
    assert min(lived.values()) > channel.SECONDS["request"] - 1


def test_urgent_data_ends_the_connection(server: live.LiveServer) -> None:
    """A byte out of band, which would wake the loop again and again, is answered by closing."""
    before = exporters.processor_seconds(server)
    with exporters.connect(server) as client:
        client.send(b"!", socket.MSG_OOB)
        assert exporters.until_closed(client) == b""
    # Till the deadline it would be the whole of its 10 s.
    assert exporters.processor_seconds(server) - before < 2
    scrape(server)


ENDLESS = {
    "a header": (b"GET /metrics HTTP/1.1\r\nX-Long: ", b"a" * 65536, b"431"),
    "headers": (b"GET /metrics HTTP/1.1\r\n", b"X-Many: 1\r\n" * 6000, b"431"),
    "a target": (b"GET /", b"a" * 65536, b"431"),
    "a body": (b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"a" * 65536, b"413"),
    "chunks": (b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n",
               b"413"),
    "a chunk": (b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", b"a" * 65536, b"413"),
    "a chunk's extension": (b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 65536, b"413"),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDLESS)
def test_endless_requests_are_cut_off(what: str, server: live.LiveServer) -> None:
    """A request without an end is refused after 16 KB, or 64 while it was on its way; nothing of it is kept."""
    head, piece, _ = ENDLESS[what]
    before = exporters.memory(server)
    with exporters.connect(server) as client:
        client.sendall(head)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 200 * MEGABYTE:
                sent += client.send(piece)
    # The kernels' buffers of both ends take some megabytes before the refusal is noticed.
    assert sent < 32 * MEGABYTE
    assert exporters.memory(server) - before < 16 * MEGABYTE
    scrape(server)


@pytest.mark.parametrize("what", ENDLESS)
def test_a_request_that_is_too_large_is_told_so(what: str, server: live.LiveServer) -> None:
    """Who stops at the limit and listens is told: 431 for a head, 413 for a body."""
    head, piece, status = ENDLESS[what]
    with exporters.connect(server) as client:
        # No byte more: what an exporter has not read when it closes takes its answer with it.
        client.sendall((head + piece * 5)[:16384] if status == b"431" else head + (piece * 5)[:16384])
        assert status == client.recv(12)[-3:]


def test_one_request_at_a_time(server: live.LiveServer) -> None:
    """Of 900 requests sent in one go the first is answered, and the rest dropped with the connection."""
    before = calm(server)
    with exporters.connect(server) as client:
        client.sendall(b"GET /-/healthy HTTP/1.1\r\n\r\n" * 600)
        answers = exporters.until_closed(client)
    assert 1 == answers.count(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answers
    with exporters.crowd(server, 20, exporters.GET * 400, window=4096):
        scrape(server)
        assert exporters.memory(server) - before < 48 * MEGABYTE
    calm(server)


def test_a_connection_is_kept_for_the_next_scrape(server: live.LiveServer) -> None:
    """Two requests one after the other, on one connection, as Prometheus sends them."""
    with exporters.connect(server) as client:
        for _ in range(3):
            client.sendall(b"\r\nGET /-/healthy HTTP/1.1\r\n\r\n")
            assert live.eventually(
                lambda: client.recv(4096, socket.MSG_PEEK)[-8:], lambda end: end == b"healthy\n"
            )
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_few_descriptors(tmp_path) -> None:
    """With no more than 300 descriptors allowed, a crowd of 600 leaves no scrape unanswered."""
    exporters.fill(tmp_path / "shared", 10)
    started = exporters.serve(tmp_path / "shared")
    started.command[:0] = ["prlimit", "--nofile=300:300"]
    with started as server:
        with exporters.crowd(server, 600):
            pages = [scrape(server) for _ in range(3)]
        assert all(b"filled_total" in page for page in pages)
        assert [] == exporters.complaints(server)


def hurried(directory, **seconds: float) -> live.LiveServer:
    """Return an exporter whose connections have other deadlines than usual: *seconds* by phase."""
    started = exporters.serve(directory)
    program = f"from wsgi_prom.exporter.http import channel; channel.SECONDS.update({seconds}); from wsgi_prom.cli import main; main()"
    started.command[1:3] = ["-c", program]
    return started


def test_who_never_reads_is_left_when_time_is_over(tmp_path) -> None:
    """The time for an answer ends the connection of a client that takes no byte; waitress would wait until it does."""
    # 250 KB, of which the kernels' buffers take 140.
    exporters.fill(tmp_path / "shared", 3000)
    with hurried(tmp_path / "shared", answer=6.0) as server:
        with exporters.connect(server, window=4096) as client:
            client.sendall(exporters.GET)
            assert client.recv(12)[-3:] == b"200"
            assert exporters.holds(server, client)
            assert not live.eventually(lambda: exporters.holds(server, client), lambda held: not held)
            assert len(exporters.until_closed(client)) < 250_000
        assert [] == exporters.complaints(server)


def test_a_client_that_stays_silent_after_its_answer_is_left(tmp_path) -> None:
    """A connection is kept for the next scrape, and closed if none comes: here after as long as an answer may take."""
    with hurried(tmp_path / "shared", answer=6.0, idle=6.0) as server, exporters.connect(server) as client:
        client.sendall(b"GET /-/healthy HTTP/1.1\r\n\r\n")
        assert exporters.until_closed(client).endswith(b"\r\n\r\nhealthy\n")
