"""Requests at a steady rate, and when each was answered: what a counter must have counted at any time."""

from __future__ import annotations

import http.client
import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import clients

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self


class Sent(NamedTuple):
    """The requests that were answered to the last byte, and those that were cut off: a server may have counted these, or not."""

    answered: int
    cut: int


class Traffic:
    """For the length of a `with` block, each of *number* clients requests the *paths* in turn, all of them *rate* times a second."""

    def __init__(self, url: str, paths: Sequence[str], *, rate: float, number: int = 4) -> None:
        self._url, self._paths = urlsplit(url), paths
        self._rate, self._number = rate, number
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(number)
        # Appended to by several threads, and sorted when it is read.
        self._answered: list[float] = []
        self._cut: list[float] = []

    def __enter__(self) -> Self:
        began = time.monotonic()
        self._sending = [self._pool.submit(self._send, began, client) for client in range(self._number)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._pool.shutdown()
        if error is None:
            for client in self._sending:
                client.result()

    def sent(self, since: float = 0, until: float = float("inf")) -> Sent:
        """Return what was sent between two times, in seconds since the epoch."""
        within = [
            bisect_right(times, until) - bisect_right(times, since)
            for times in (sorted(self._answered), sorted(self._cut))
        ]
        return Sent(*within)

    def _send(self, began: float, client: int) -> None:
        number = client
        # By the clock, not after the last answer: a server that was slow for a moment gets what it has missed.
        while not self._end.wait(max(began + number / self._rate - time.monotonic(), 0)):
            path = self._paths[number // self._number % len(self._paths)]
            connection = http.client.HTTPConnection(
                self._url.hostname or "", self._url.port, timeout=clients.REQUEST_SECONDS
            )
            try:
                clients.exchange(connection, path)
            except (OSError, http.client.HTTPException):
                self._cut.append(time.time())
            else:
                self._answered.append(time.time())
            finally:
                connection.close()
            number += self._number
