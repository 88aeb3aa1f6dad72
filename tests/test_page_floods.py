"""Many who look at the exporter's page, each at another one, or read nothing of it: scrapes are answered, and memory is bounded."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import clients
import exporters
import live
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1024 * 1024
# A megabyte of JSON.
ROUTES = 4000
# More orders than the pages that are kept.
ORDERS = [
    f"/?routes={sign}{routes}&workers={workers}"
    for sign, routes, workers in itertools.product(
        ("", "-"),
        ("route", "rate", "errors", "p50", "p99", "time", "count"),
        ("worker", "cpu", "memory", "load"),
    )
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.LiveServer]:
    directory = tmp_path_factory.mktemp("pages") / "shared"
    exporters.fill_routes(directory, ROUTES)
    with exporters.serve(directory) as server:
        assert 200 == live.request(server.metrics_url).status
        assert 200 == live.request(address(server, "/")).status
        yield server
        assert [] == exporters.complaints(server)


def address(server: live.LiveServer, path: str) -> str:
    return server.metrics_url.removesuffix("/metrics") + path


def test_a_hundred_who_look_at_other_pages(server: live.LiveServer) -> None:
    """While 100 clients ask again and again, each for the JSON or a page in another order, scrapes are answered, and all others or told to wait."""
    before = exporters.memory(server)
    ended = threading.Event()
    statuses: Counter[int] = Counter()

    def look(number: int) -> None:
        path = "/live" if number % 4 == 0 else ORDERS[number % len(ORDERS)]
        headers = {"Accept-Encoding": "gzip"} if number % 8 > 3 else {}
        while not ended.is_set():
            statuses[clients.request(address(server, path), headers=headers).status] += 1

    with ThreadPoolExecutor(100) as pool:
        looking = [pool.submit(look, number) for number in range(100)]
        try:
            for _ in range(10):
                pages = statuses[200]
                assert pages < live.eventually(
                    lambda: statuses[200], lambda found, pages=pages: found > pages
                )
                assert 200 == live.request(server.metrics_url).status
                assert exporters.memory(server) - before < 160 * MEGABYTE
        finally:
            ended.set()
    assert [None] * 100 == [found.result() for found in looking]
    assert {200, 503} == set(statuses)


def test_hundreds_who_read_nothing_of_the_page(server: live.LiveServer) -> None:
    """
    While 300 clients ask, over several seconds, for 1 MB of JSON or a page and read nothing of it, scrapes and pages are answered:
    what was made is in memory once.
    """
    before = exporters.memory(server)
    with contextlib.ExitStack() as stack:
        readers = []
        for number in range(300):
            path = "/live" if number % 2 else ORDERS[number % len(ORDERS)]
            readers.append(stack.enter_context(exporters.connect(server, window=4096)))
            readers[-1].sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert readers[-1].recv(12, socket.MSG_PEEK) in {b"HTTP/1.1 200", b"HTTP/1.1 503"}
            if not number % 30:
                assert 200 == live.request(server.metrics_url).status
                assert 200 == live.request(address(server, "/")).status
        assert exporters.descriptors(server) > 300
        assert exporters.memory(server) - before < 160 * MEGABYTE
    assert live.eventually(lambda: exporters.descriptors(server), lambda found: found < 20) < 20
