"""Clients of a server under test: one request, or many from several threads."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# Generous, for a busy machine: only a failing test waits to the end.
REQUEST_SECONDS: Final = 60.0


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Driven(NamedTuple):
    """The outcome of the requests of `drive`: those answered to the last byte, and those that were not."""

    answered: Counter[tuple[str, int]]
    failed: list[tuple[str, Exception]]


def request(
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    """
    Send one request and read the whole answer, whatever its status.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=REQUEST_SECONDS)
    with contextlib.closing(connection):
        return exchange(connection, target(parts.path, parts.query), method, headers, body)


def drive(url: str, paths: Iterable[str], clients: int = 8, *, keep_alive: bool = False) -> Driven:
    """
    Request each of *paths* once from *clients* threads, each on a new connection unless *keep_alive* (not for uWSGI's
    http-socket, which closes after each answer and does not say so). No request is sent twice: one that failed may have
    been served. A body that has neither a length nor chunks ends with its connection, so that a server's death there
    looks like its end.
    """
    parts = urlsplit(url)
    prefix = parts.path.rstrip("/")
    shares: list[list[str]] = [[] for _ in range(clients)]
    for number, path in enumerate(paths):
        shares[number % clients].append(path)

    def client(share: list[str]) -> Driven:
        mine = Driven(Counter(), [])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=REQUEST_SECONDS)
        for path in share:
            try:
                answer = exchange(connection, prefix + path)
            except (OSError, http.client.HTTPException) as error:
                mine.failed.append((path, error))
                connection.close()
            else:
                mine.answered[path, answer.status] += 1
                if not keep_alive:
                    connection.close()
        connection.close()
        return mine

    total = Driven(Counter(), [])
    with ThreadPoolExecutor(clients) as pool:
        for mine in pool.map(client, shares):
            total.answered.update(mine.answered)
            total.failed.extend(mine.failed)
    return total


@contextlib.contextmanager
def steadily(url: str, paths: Sequence[str]) -> Iterator[None]:
    """Request *paths* in turn during the block, some dozens a second."""
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.01):
            for path in paths:
                request(url + path)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()


def exchange(
    connection: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Response:
    connection.request(method, path, body=body, headers=dict(headers or {}))
    answer = connection.getresponse()
    return Response(answer.status, answer.headers, answer.read())


def target(path: str, query: str) -> str:
    return f"{path or '/'}?{query}" if query else path or "/"
