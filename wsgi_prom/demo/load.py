"""
The requests of the demo: which, by how many clients, and what became of each.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom.demo.naive import PATH as NAIVE_PATH
from wsgi_prom.demo.server import DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future
    from typing import Self

CLIENTS: Final = 8

# Far beyond the slowest route: it only ends a demo whose server hangs.
_REQUEST_SECONDS: Final = 30.0


class Row(NamedTuple):
    """What requests are counted by."""

    method: str
    route: str
    status: str


class Kind(NamedTuple):
    """
    One kind of request: its *path*, where `{}` stands for a number, the row it belongs to, the end of its answer.

    A body with neither a length nor chunks, as uWSGI sends a streamed one, ends where its connection does: only its
    last bytes tell whether the worker lived to the end of it.
    """

    path: str
    row: Row
    end: bytes = b""


INDEX: Final = Kind("/", Row("GET", "/", "200"))
USER: Final = Kind("/users/{}", Row("GET", "/users/<int:user_id>", "200"))
FAIL: Final = Kind("/fail", Row("GET", "/fail", "500"))
STREAM: Final = Kind("/stream", Row("GET", "/stream", "200"), b"line 4\n")
SLOW: Final = Kind("/slow", Row("GET", "/slow", "200"))
# Each a path of its own, all of them one route: a label that followed the path would have no bounds.
UNKNOWN: Final = Kind("/nothing/{}", Row("GET", "unmatched", "404"))
NOT_ALLOWED: Final = Kind("/", Row("POST", "unmatched", "405"))
NAIVE: Final = Kind(NAIVE_PATH, Row("GET", NAIVE_PATH, "200"))

# Of a hundred requests. A slow one keeps its worker for 250 ms, a streamed one for 100.
_SHARES: Final = {INDEX: 48, USER: 30, UNKNOWN: 8, FAIL: 7, STREAM: 5, SLOW: 1, NOT_ALLOWED: 1}
_HUNDRED: Final = [kind for kind, share in _SHARES.items() for _ in range(share)]


def kind_of(number: int) -> Kind:
    """Return the kind of the request *number*: all are mixed, and the same in each run."""
    # 37 and 100 have no common divisor, so that each hundred requests have each kind as often as it should be.
    return _HUNDRED[number * 37 % 100]


class Tally:
    """
    What became of the requests: answered to the last byte, by what the answer was, or cut off, by what it would be.

    Thread safe.
    """

    def __init__(self) -> None:
        self.answered: Counter[Row] = Counter()
        self.cut_off: Counter[Row] = Counter()
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def answer(self, row: Row) -> None:
        with self._lock:
            self.answered[row] += 1

    def cut(self, row: Row, error: Exception) -> None:
        with self._lock:
            self.cut_off[row] += 1
            self.errors.append(f"{row.method} {row.route}: {type(error).__name__}: {error}")

    @property
    def done(self) -> int:
        with self._lock:
            return self.answered.total() + self.cut_off.total()


def send(
    address: str,
    kind: Kind,
    tally: Tally,
    *,
    number: int = 0,
    query: str = "",
    headers: Mapping[str, str] | None = None,
) -> bytes | None:
    """
    Send one request to *address*, `host:port`, and put what becomes of it into *tally*.

    Returns the body of a complete answer, None where there is none. Nothing is sent twice: a request that failed may
    have been served all the same.
    """
    connection = HTTPConnection(address, timeout=_REQUEST_SECONDS)
    with closing(connection):
        try:
            connection.request(kind.row.method, kind.path.format(number) + query, headers=dict(headers or {}))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 200 and not body.endswith(kind.end):
                raise IncompleteRead(body)
        except (OSError, HTTPException) as error:
            tally.cut(kind.row, error)
            return None
    tally.answer(kind.row._replace(status=str(answer.status)))
    return body


class Load:
    """
    *requests* requests by CLIENTS concurrent clients, each on a connection of its own, for a `with` block.

    Leaving the block waits for the requests under way and sends no more. *tally* is shared with whoever else sends.
    """

    def __init__(self, address: str, requests: int, tally: Tally) -> None:
        self._address = address
        self._numbers = iter(range(requests))
        self._tally = tally
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS, "client")
        self._clients: list[Future[None]] = []
        self.taken = 0

    def __enter__(self) -> Self:
        self._clients = [self._pool.submit(self._run) for _ in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    @property
    def running(self) -> bool:
        """Whether requests are left. Raises what a client raised."""
        for client in self._clients:
            if client.done():
                client.result()
        return not all(client.done() for client in self._clients)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            with self._lock:
                number = next(self._numbers, None)
                self.taken += number is not None
            if number is None:
                return
            body = send(self._address, kind_of(number), self._tally, number=number)
            failures = failures + 1 if body is None else 0
            # One can be the kill's doing; a client would run through all the rest in no time.
            if failures == 3:
                raise DemoError(f"the server does not answer: {self._tally.errors[-1]}")
