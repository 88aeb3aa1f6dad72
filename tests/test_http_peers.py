"""Answers that do not end, of a receiver of metrics, of etcd and of an exporter; what that relies on in http.client and urllib3."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pushed
import pytest
import requests
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from wsgi_prom.cli.top_url import AnswerError, UrlViews
from wsgi_prom.discovery.etcd import Etcd, EtcdError
from wsgi_prom.push.login import Login
from wsgi_prom.push.remote_write import RemoteWrite
from wsgi_prom.push.sender import PushError
from wsgi_prom.settings import Settings

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
# What comes first, what comes again and again, and the seconds between. The answers would take 100 seconds and more.
ANSWERS = {
    "status": (b"", b" ", 0.1),
    "headers": (HEAD, b"X-A: b\r\n", 1.0),
    "body": (HEAD + b"Content-Length: 1000\r\n\r\n", b" ", 0.1),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.1),
    "size": (HEAD + b"\r\n", b" " * 1000000, 0.0),
    "a length": (HEAD + b"Content-Length: 999999999999\r\n\r\n", b" ", 0.1),
    "a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n", b" ", 0.1),
}


def pushed_to(address: str) -> str:
    """Return what is told of a receiver at *address*."""
    remote = RemoteWrite(f"http://{address}/", Login(), {"job": "a"}, 0.1)
    with pytest.raises(PushError) as raised:
        remote.send(pushed.reading(pushed.gauge("a", (), 1)), threading.Event())
    return str(raised.value).partition("/' ")[2]


def asked_of(address: str) -> str:
    """Return what is told of an etcd at *address*."""
    settings = Settings.read({"WSGI_PROM_SD": f"etcd://{address}/shop"})
    with pytest.raises(EtcdError) as raised:
        Etcd.of(settings.sd[0], settings).connect()
    return str(raised.value).partition("/shop': ")[2]


def looked_at(address: str) -> str:
    """Return why `wsgi-prom top` has no view of the exporter at *address*."""
    with pytest.raises(AnswerError) as raised:
        UrlViews(f"http://{address}", Login()).look()
    return str(raised.value).partition(f"{address} ")[2]


def test_an_answer_that_does_not_end() -> None:
    """A receiver, an etcd and an exporter that go on and on with an answer, or send too much of one, are away."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(30) as threads:
        addresses = [stack.enter_context(pushed.endless(*answer)) for answer in ANSWERS.values()]
        told = {
            name: [threads.submit(ask, address) for ask in (pushed_to, asked_of, looked_at)]
            for name, address in zip(ANSWERS, addresses, strict=True)
        }
        found = {name: tuple(future.result() for future in futures) for name, futures in told.items()}
    slow = (
        "does not answer (the answer takes too long)",
        "etcd does not answer as it should: Read timed out.",
        "does not answer: the answer takes too long.",
    )
    large = "the answer is longer than 16777216 bytes"
    size = (
        f"does not answer ({large})",
        f"etcd does not answer as it should: {large}",
        f"does not answer: {large}.",
    )
    # Of the last byte it may be the socket that says so.
    found = {
        name: (
            push.replace("(timed out)", "(the answer takes too long)"),
            etcd,
            top.replace(": timed out", ": the answer takes too long"),
        )
        for name, (push, etcd, top) in found.items()
    }
    # requests asks urllib3 for pieces, and waits for them.
    huge = dict.fromkeys(("a length", "a chunk"), (size[0], slow[1], size[2]))
    assert {**dict.fromkeys(ANSWERS, slow), "size": size, **huge} == found


def test_a_compressed_answer() -> None:
    """What a receiver compresses, which nobody has asked for, is not unpacked: it may be a thousand times as large."""
    with pushed.http() as receiver:
        answer = pushed.Answer("400 Bad", (("Content-Encoding", "gzip"),), gzip.compress(b"large" * 100))
        receiver.answers += [answer, answer]
        told = pushed_to(receiver.url.removeprefix("http://").rstrip("/"))
    assert told.startswith("answers 400 (")
    assert "large" not in told


class Readable:
    """A socket that can do nothing but be read as a file."""

    def makefile(self, mode: str) -> io.BytesIO:
        assert "rb" == mode
        return io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nokmore")


def test_a_response_wants_only_a_file_of_its_socket() -> None:
    """http.client's response calls its socket's makefile, and nothing else; `begin` reads the head and sets `headers`."""
    response = http.client.HTTPResponse(Readable(), method="GET")  # type: ignore[arg-type]
    response.begin()
    assert "gzip" == response.headers["Content-Encoding"]
    assert b"ok" == response.read()


def test_connections_make_responses_of_their_class() -> None:
    """The class of a connection's answers is its `response_class`, also by urllib3, whose pools have classes by scheme."""
    kinds = (HTTPConnection, HTTPSConnection)
    assert [True, True] == [issubclass(kind, http.client.HTTPConnection) for kind in kinds]
    assert {http.client.HTTPResponse} == {kind.response_class for kind in kinds}  # type: ignore[attr-defined]
    pools = {"http": (HTTPConnectionPool, HTTPConnection), "https": (HTTPSConnectionPool, HTTPSConnection)}
    assert {scheme: pool for scheme, (pool, _) in pools.items()} == PoolManager().pool_classes_by_scheme
    assert [True, True] == [
        issubclass(kind, pool.ConnectionCls) or issubclass(pool.ConnectionCls, kind)
        for pool, kind in pools.values()
    ]
    assert isinstance(requests.adapters.HTTPAdapter().poolmanager, PoolManager)
