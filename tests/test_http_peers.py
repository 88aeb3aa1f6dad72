"""Answers that do not end: of a receiver of metrics, and of etcd."""

from __future__ import annotations

import contextlib
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import pushed
import pytest

from wsgi_prom.discovery.etcd import Etcd, EtcdError
from wsgi_prom.push.endpoint import Login
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


def test_an_answer_that_does_not_end() -> None:
    """A receiver and an etcd that go on and on with an answer, or send too much of one, are away."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        addresses = [stack.enter_context(pushed.endless(*answer)) for answer in ANSWERS.values()]
        told = [
            (threads.submit(pushed_to, address), threads.submit(asked_of, address)) for address in addresses
        ]
        found = {
            name: (push.result(), etcd.result()) for name, (push, etcd) in zip(ANSWERS, told, strict=True)
        }
    slow = (
        "does not answer (the answer takes too long)",
        "etcd does not answer as it should: Read timed out.",
    )
    large = "the answer is longer than 16777216 bytes"
    size = (f"does not answer ({large})", f"etcd does not answer as it should: {large}")
    # Of the last byte it may be the socket that says so.
    told = {
        name: (push.replace("(timed out)", "(the answer takes too long)"), etcd)
        for name, (push, etcd) in found.items()
    }
    assert {**dict.fromkeys(ANSWERS, slow), "size": size} == told


def test_a_compressed_answer() -> None:
    """What a receiver compresses, which nobody has asked for, is not unpacked: it may be a thousand times as large."""
    with pushed.http() as receiver:
        answer = pushed.Answer("400 Bad", (("Content-Encoding", "gzip"),), gzip.compress(b"large" * 100))
        receiver.answers += [answer, answer]
        told = pushed_to(receiver.url.removeprefix("http://").rstrip("/"))
    assert told.startswith("answers 400 (")
    assert "large" not in told
