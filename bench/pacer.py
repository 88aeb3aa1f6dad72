"""
An open loop: requests are sent at times fixed in advance, whether or not earlier ones were answered.

A client that waits for each response before it sends the next request leaves out the requests that would have waited.
"""

from __future__ import annotations

import errno
import selectors
import socket
import statistics
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PIECE: Final = 1 << 16


class Order(NamedTuple):
    """A request for *target* of the server at *address*. *due* and *limit* are seconds, from the beginning and from *due*."""

    due: float
    address: tuple[str, int]
    target: str
    limit: float


class _Sent:
    """A request that was sent, on a connection of its own."""

    def __init__(self, order: Order, index: int, started: float) -> None:
        self.order = order
        self.index = index
        self.expires = started + order.due + order.limit
        self.socket = socket.socket()
        self.socket.setblocking(False)
        error = self.socket.connect_ex(order.address)
        if error not in {0, errno.EINPROGRESS}:
            raise OSError(error, f"{order.address}")
        self.head = b""

    def send(self) -> None:
        host, port = self.order.address
        lines = [f"GET {self.order.target} HTTP/1.0", f"Host: {host}:{port}", "Accept-Encoding: gzip"]
        self.socket.send("\r\n".join([*lines, "", ""]).encode())

    def receive(self) -> bool:
        """Return whether the answer has come to its end."""
        piece = self.socket.recv(_PIECE)
        self.head = self.head or piece[:32]
        return not piece

    @property
    def succeeded(self) -> bool:
        return self.head.split(b" ")[1:2] == [b"200"]


def play(orders: Sequence[Order], clock: Callable[[], float] = time.perf_counter) -> list[float | None]:
    """
    Send each request when it is due, and return how many seconds later the last byte of its answer arrived.

    None for a request without an answer within its limit, or with another status than 200.
    """
    found: list[float | None] = [None] * len(orders)
    waiting = sorted(enumerate(orders), key=lambda item: item[1].due, reverse=True)
    sent: set[_Sent] = set()
    started = clock()
    with selectors.DefaultSelector() as selector:
        while waiting or sent:
            now = clock()
            while waiting and started + waiting[-1][1].due <= now:
                index, order = waiting.pop()
                request = _Sent(order, index, started)
                sent.add(request)
                selector.register(request.socket, selectors.EVENT_WRITE, request)
            ended = [request for request in sent if request.expires <= now]
            wake = [started + waiting[-1][1].due] if waiting else []
            wake += [request.expires for request in sent]
            for key, _ in selector.select(max(min(wake) - clock(), 0)) if not ended else ():
                request = key.data
                try:
                    if key.events == selectors.EVENT_WRITE:
                        request.send()
                        selector.modify(request.socket, selectors.EVENT_READ, request)
                    elif request.receive():
                        if request.succeeded:
                            found[request.index] = clock() - started - request.order.due
                        ended.append(request)
                except OSError:
                    ended.append(request)
            for request in ended:
                selector.unregister(request.socket)
                request.socket.close()
                sent.remove(request)
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of *values* that at least *percent* percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def median_of(values: Sequence[float | None]) -> float:
    """Return the median of the requests that were answered."""
    return statistics.median([value for value in values if value is not None])
