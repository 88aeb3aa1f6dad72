"""Garbage from a client: a measured application answers as the server alone would, and nothing breaks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import live
import pytest
import wire
from pairs import Fleet, Pair

from wsgi_prom.metrics import METHODS, OTHER

if TYPE_CHECKING:
    from collections.abc import Iterator

# One server of each parser of requests, which all kinds of workers share.
SERVERS = ("wsgiref", "waitress", "cheroot", "gunicorn gthread", "uwsgi prefork")


class Garbage(NamedTuple):
    """
    What is sent. After what is *cut* short the client says that there is no more: a server would wait for the rest.
    """

    data: bytes
    cut: bool = False


def get(
    target: bytes = b"/environ_seen",
    *headers: bytes,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    host: bytes = b"Host: localhost",
) -> Garbage:
    lines = [b" ".join([method, target, version]), host, *headers, b"Connection: close"]
    return Garbage(b"\r\n".join(line for line in lines if line) + b"\r\n\r\n")


def post(*headers: bytes, body: bytes = b"", cut: bool = False) -> Garbage:
    return Garbage(get(b"/read_all", *headers, method=b"POST").data + body, cut)


def chunked(body: bytes, *headers: bytes, coding: bytes = b"chunked", cut: bool = False) -> Garbage:
    return post(b"Transfer-Encoding: " + coding, *headers, body=body, cut=cut)


CHUNK = b"5\r\nhello\r\n0\r\n\r\n"

GARBAGE = {
    # Content-Length
    "length no number": post(b"Content-Length: many", body=b"hello"),
    "length negative": post(b"Content-Length: -5", body=b"hello"),
    "length with sign": post(b"Content-Length: +5", body=b"hello"),
    "length in hex": post(b"Content-Length: 0x5", body=b"hello"),
    "length empty": post(b"Content-Length:", body=b"hello"),
    "length float": post(b"Content-Length: 5.0", body=b"hello"),
    "length with underscore": post(b"Content-Length: 1_0", body=b"hello", cut=True),
    "length in other digits": post("Content-Length: \u0665".encode(), body=b"hello"),
    "length twice the same": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "length twice": post(b"Content-Length: 5", b"Content-Length: 3", body=b"hello"),
    "length listed": post(b"Content-Length: 5, 5", body=b"hello"),
    "length beyond 64 bits": post(b"Content-Length: 99999999999999999999", body=b"hello", cut=True),
    "length of 5000 digits": post(b"Content-Length: " + b"9" * 5000, body=b"hello", cut=True),
    "length of a GET": get(b"/environ_seen", b"Content-Length: many"),
    "body cut short": post(b"Content-Length: 50", body=b"hello", cut=True),
    "body without a length": post(body=b"hello"),
    # Transfer-Encoding
    "chunks": chunked(CHUNK),
    "chunks with extensions": chunked(b'5;name=value;other="x"\r\nhello\r\n0\r\n\r\n'),
    "chunks with trailers": chunked(b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n"),
    "chunk size no number": chunked(b"many\r\nhello\r\n0\r\n\r\n", cut=True),
    "chunk size negative": chunked(b"-5\r\nhello\r\n0\r\n\r\n", cut=True),
    "chunk size beyond 64 bits": chunked(b"FFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", cut=True),
    "chunk longer than its size": chunked(b"3\r\nhello\r\n0\r\n\r\n", cut=True),
    "chunks cut short": chunked(b"5\r\nhel", cut=True),
    "chunks without an end": chunked(b"5\r\nhello\r\n", cut=True),
    "chunks and a length": chunked(CHUNK, b"Content-Length: 5"),
    "chunks and no length": chunked(CHUNK, b"Content-Length: many"),
    "coding in capitals": chunked(CHUNK, coding=b"CHUNKED"),
    "coding with blanks": chunked(CHUNK, coding=b"  chunked \t "),
    "coding twice": chunked(CHUNK, coding=b"chunked, chunked", cut=True),
    "coding identity": chunked(b"hello", b"Content-Length: 5", coding=b"identity"),
    "coding unknown": chunked(CHUNK, coding=b"xchunked", cut=True),
    "coding empty": chunked(CHUNK, coding=b"", cut=True),
    "coding with a control character": chunked(CHUNK, coding=b"\x0bchunked", cut=True),
    # methods
    "method of 52 characters": get(method=b"A" * 52),
    "method of 52 small characters": get(method=b"a" * 52),
    "method small": get(method=b"get"),
    "method of 5000 characters": get(method=b"M" * 5000),
    "method with a NUL": get(method=b"GE\0T"),
    "method no token": get(method=b"G@T{}"),
    "method not ASCII": get(method="M\u00c9THODE".encode()),
    "method with quotes": get(method=b'G"E\\T'),
    "method missing": Garbage(b" /environ_seen HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    "method CONNECT": get(b"localhost:80", method=b"CONNECT"),
    "method OPTIONS *": get(b"*", method=b"OPTIONS"),
    "method PRI": Garbage(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "method OTHER": get(method=b"OTHER"),
    # paths, which become routes here
    "path with a NUL": get(b"/routed/\0/environ_seen"),
    "path with an escaped NUL": get(b"/routed/%00/environ_seen"),
    "path not UTF-8": get(b"/routed/\xff\xfe/environ_seen"),
    "path not UTF-8 escaped": get(b"/routed/%ff%fe%ed%a0%80/environ_seen"),
    "path with a line end": get(b"/routed/%0d%0aX-Evil:1/environ_seen"),
    "path with quotes": get(b"/routed/%22%5c%7b%7d%0a/environ_seen"),
    "path with a bad escape": get(b"/routed/%zz%f/environ_seen"),
    "path with a blank": get(b"/routed/a b/environ_seen"),
    "path up": get(b"/routed/../../../etc/passwd/environ_seen"),
    "path of slashes": get(b"//////environ_seen"),
    "path without a slash": get(b"environ_seen"),
    "path empty": get(b"?"),
    "path with a fragment": get(b"/environ_seen#fragment"),
    "path of 8 KB": get(b"/routed/" + b"p" * 8192 + b"/environ_seen"),
    "path of 100 KB": get(b"/" + b"p" * 100_000),
    "path absolute": get(b"http://evil.example:99/environ_seen"),
    "path of another scheme": get(b"gopher://[::1/environ_seen"),
    "query not UTF-8": get(b"/environ_seen?\xff=\0&%ff"),
    # headers
    "header of 8 KB": get(b"/environ_seen", b"X-Long: " + b"h" * 8192),
    "header of 100 KB": get(b"/environ_seen", b"X-Long: " + b"h" * 100_000),
    "headers by the hundred": get(b"/environ_seen", *[b"X-Number-%d: %d" % (n, n) for n in range(300)]),
    "header name of 8 KB": get(b"/environ_seen", b"X" * 8192 + b": 1"),
    "header without a colon": get(b"/environ_seen", b"Nonsense"),
    "header without a name": get(b"/environ_seen", b": value"),
    "header folded": get(b"/environ_seen", b"X-Folded: one", b"  two"),
    "header with a NUL": get(b"/environ_seen", b"X-Nul: a\0b"),
    "header not UTF-8": get(b"/environ_seen", b"X-Bytes: \xff\xfe"),
    "header with a lone return": get(b"/environ_seen", b"X-Return: a\rX-Evil: b"),
    "header with a blank before its colon": get(b"/environ_seen", b"X-Blank : 1"),
    "header with an underscore": get(b"/environ_seen", b"X_Under: 1", b"X-Under: 2"),
    "header named like ours": get(b"/environ_seen", b"wsgi_prom.route: /evil", b"wsgi-prom-request: 1"),
    "header Expect unknown": get(b"/environ_seen", b"Expect: 200-ok"),
    "header Upgrade": get(b"/environ_seen", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    "host missing": get(host=b""),
    "host twice": get(b"/environ_seen", b"Host: other"),
    "host hostile": get(host=b'Host: "\\\n{}' + b"\xff" * 100),
    "host empty": get(host=b"Host:"),
    # headers that a measuring middleware reads
    "queue start no number": get(b"/environ_seen", b"X-Request-Start: t=soon"),
    "queue start infinite": get(b"/environ_seen", b"X-Request-Start: inf", b"X-Queue-Start: t=nan"),
    "queue start beyond floats": get(b"/environ_seen", b"X-Request-Start: t=" + b"9" * 5000),
    "queue start negative": get(b"/environ_seen", b"X-Request-Start: -1e308"),
    "queue start not ASCII": get(b"/environ_seen", "X-Queue-Start: t=\u0661\u0662".encode()),
    "queue start empty": get(b"/environ_seen", b"X-Request-Start:", b"X-Queue-Start: t="),
    # request lines
    "version of the future": get(version=b"HTTP/9.9"),
    "version no number": get(version=b"HTTP/x.y"),
    "version small": get(version=b"http/1.1"),
    "version HTTP/0.9": Garbage(b"GET /environ_seen\r\n\r\n", cut=True),
    "version of another protocol": get(version=b"ICAP/1.0"),
    "line with one word": Garbage(b"GET\r\n\r\n", cut=True),
    "line with four words": get(version=b"HTTP/1.1 extra"),
    "line with two blanks": get(b" /environ_seen"),
    "line with tabs": Garbage(
        b"GET\t/environ_seen\tHTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    ),
    "line empty before": Garbage(b"\r\n\r\n" + get().data),
    "line ends of one character": Garbage(get().data.replace(b"\r\n", b"\n"), cut=True),
    "line ends of the other": Garbage(get().data.replace(b"\r\n", b"\r"), cut=True),
    "nothing": Garbage(b"", cut=True),
    "nothing but line ends": Garbage(b"\r\n\r\n\r\n\r\n", cut=True),
    "half a request": Garbage(get().data[:30], cut=True),
    "TLS": Garbage(bytes.fromhex("16030100c8010000c40303") + bytes(range(200)), cut=True),
    "NULs": Garbage(b"\0" * 1000, cut=True),
    "any bytes": Garbage(bytes(range(256)) * 4, cut=True),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("events")) as found:
        yield found


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, fleet: Fleet) -> Pair:
    """
    The pair of the server that the test is parametrized with.
    """
    return fleet[request.param]


def ask(url: str, garbage: Garbage) -> bytes:
    with wire.Connection(url) as connection:
        connection.send(garbage.data)
        if garbage.cut:
            connection.half_close()
        return wire.steady(connection.rest(), url)


@pytest.mark.parametrize("pair", SERVERS, indirect=True)
def test_garbage_is_answered_as_by_the_server_alone(pair: Pair) -> None:
    """
    Each answer is, byte for byte, the server's own, whether it refuses the garbage, hands it on or closes the
    connection. Afterwards the same workers are alive, nothing is in progress, the metrics can be parsed, and no method
    is a label.
    """
    workers = pair.measured.workers()
    bare, measured = (
        {kind: ask(url, garbage) for kind, garbage in GARBAGE.items()} for url in pair.urls().values()
    )
    assert bare == measured

    url = pair.urls()["measured"]
    left = live.eventually(pair.in_progress, lambda found: found == 0, 5)
    answer = wire.exchange(url, wire.request("/list_one", headers=(("Connection", "close"),)))
    page = pair.metrics()
    samples = live.parse_samples(page)
    methods = {dict(labels)["method"] for labels in live.labelled(samples, "http_requests_total")}

    assert left == 0
    assert answer.startswith((b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK"))
    assert methods <= METHODS | {OTHER}
    assert not re.search(r"(?m)^wsgi_prom_errors_total\{.* (?!0\.0$)", page)
    assert workers == pair.measured.workers()
