"""The demo's requests: their kinds, the clients that send them, and their results."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, IncompleteRead
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLIENTS: Final = 8

# Far beyond the slowest route: it only ends a demo whose server hangs.
_REQUEST_SECONDS: Final = 30.0


class Row(NamedTuple):
    """The labels that requests are counted by."""

    method: str
    route: str
    status: str


class Kind(NamedTuple):
    """
    One kind of request: its *path*, where `{}` stands for a number, its expected row, and the *end* of its answer.

    uWSGI sends a streamed body with neither a length nor chunks, so only its last bytes tell that it is complete.
    """

    path: str
    row: Row
    end: bytes = b""


INDEX: Final = Kind("/", Row("GET", "/", "200"))
USER: Final = Kind("/users/{}", Row("GET", "/users/<int:user_id>", "200"))
FAIL: Final = Kind("/fail", Row("GET", "/fail", "500"))
STREAM: Final = Kind("/stream", Row("GET", "/stream", "200"), b"line 4\n")
SLOW: Final = Kind("/slow", Row("GET", "/slow", "200"))
# Each has a path of its own, and all are one route: a label that followed the path would have no bounds.
UNKNOWN: Final = Kind("/nothing/{}", Row("GET", "unmatched", "404"))
NOT_ALLOWED: Final = Kind("/", Row("POST", "unmatched", "405"))
NAIVE: Final = Kind("/naive-metrics", Row("GET", "/naive-metrics", "200"))

# A request with this header makes its worker log its pid, so that the demo can kill that worker.
ANNOUNCE_HEADER: Final = "X-Demo-Announce"

# Of a hundred requests. A slow one occupies its worker for 250 ms, a streamed one for 100 ms.
_SHARES: Final = {INDEX: 48, USER: 30, UNKNOWN: 8, FAIL: 7, STREAM: 5, SLOW: 1, NOT_ALLOWED: 1}
_HUNDRED: Final = [kind for kind, share in _SHARES.items() for _ in range(share)]


class Result(NamedTuple):
    """
    The row and the body of a complete answer; or the row that was expected, and the *error* that cut the answer off.
    """

    row: Row
    body: bytes = b""
    error: str = ""


def kind_of(number: int) -> Kind:
    """Return the kind of the request *number*: all are mixed, and the same in each run."""
    # 37 and 100 have no common divisor, so each hundred requests have the shares above.
    return _HUNDRED[number * 37 % 100]


def send(
    url: str, kind: Kind, *, number: int = 0, query: str = "", headers: Mapping[str, str] | None = None
) -> Result:
    """Send one request, once: a request that failed may have been served all the same."""
    path = kind.path.format(number) + query
    try:
        status, body = exchange(url + path, kind.row.method, headers or {})
        if status == 200 and not body.endswith(kind.end):
            raise IncompleteRead(body)
    except (OSError, HTTPException) as error:
        return Result(kind.row, error=f"{kind.row.method} {path}: {type(error).__name__}: {error}")
    return Result(kind.row._replace(status=str(status)), body)


def exchange(url: str, method: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    # Not urllib.request, which would send this to the proxy that the environment names.
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    with closing(HTTPConnection(parts.netloc, timeout=_REQUEST_SECONDS)) as connection:
        connection.request(method, target, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def load(url: str, requests: int) -> Iterator[Iterator[Result]]:
    """
    Send *requests* requests from CLIENTS threads, and give their results in order.

    A block that ends early sends no more, and waits for the requests under way.
    """
    with ThreadPoolExecutor(CLIENTS, "client") as pool:
        try:
            yield pool.map(lambda number: send(url, kind_of(number), number=number), range(requests))
        finally:
            pool.shutdown(cancel_futures=True)
