"""Requests that are not HTTP, or nearly: tens of thousands of mutations of good ones."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor

import exporters
import live
import pytest

FULL = os.environ.get("CHAOS_SCALE") == "full"
INPUTS = 40_000 if FULL else 4_000
# One by one, they are the regressions: what a fuzzer of an earlier day found.
KNOWN = [
    b"GET http://[ HTTP/1.1\r\n\r\n",
    b"GET http://[::1]:x/metrics HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics?name[]=%ff HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept: " + b"a/" * 7000 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept: a/b" + b';a="\\' * 3000 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAccept-Encoding: " + b"gzip;q=1," * 1700 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nAuthorization: Basic \xff\xff\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0" * 10000,
    *[b"GET http://" + b"a" * 16000 + b" x\r\n\r\n"] * 4,
    *[b"GET / HTTP/1.1\r\nA: " + b" " * 16000 + b"\0\r\n\r\n"] * 4,
    *[b"GET / HTTP/1.1\r\nA: " + b"\t" * 16000 + b"\\\r\n\r\n"] * 4,
]
SEEDS = [
    b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9464\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\nAccept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n",
    b"HEAD /-/ready HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /metrics?name[]=filled_total&name[]=x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n5;a=b\r\nabcde\r\n0\r\nA: b\r\n\r\n",
    b"GET http://user@[::1]:9464/-/healthy?a#b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    b'GET /-/healthy HTTP/1.1\r\nAuthorization: Basic YTpi\r\nCookie: a=b; c="d"\r\n folded\r\n\r\n',
]  # fmt: skip
PIECES = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"%", b"%00", b"%ff", b"[", b"]", b"//", b"?", b"#", b";", b",",
          b"\xff", b"\xc3\xa9", b"HTTP/9.9", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n",
          b"9" * 5000, b"-1", b"0x10", b"ffffffffffffffff", b"A" * 9000, b"a: b\r\n" * 500, b"q=nan", b'"', b"\\"]  # fmt: skip


def mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice([0, 1, 1, 2, 4, 16]))
        way = chance.randrange(6)
        if way == 0:
            data[at:to] = chance.choice(PIECES)
        elif way == 1:
            data[at:at] = chance.choice(PIECES)
        elif way == 2:
            data[at:to] = chance.randbytes(to - at)
        elif way == 3:
            del data[at:]
        elif way == 4:
            data[at:at] = data[chance.randrange(len(data) + 1) :][:200]
        else:
            data += chance.choice(SEEDS)
    return bytes(data)


@pytest.mark.timeout(900)
def test_malformed_requests(tmp_path) -> None:
    """Each is refused, answered or dropped: no traceback, no 500, no more memory, and a good scrape in between."""
    seed = os.environ["CHAOS_SEED"]
    print(f"{INPUTS} inputs, CHAOS_SEED={seed}")
    chance = random.Random(seed)
    exporters.fill(tmp_path / "shared", 20)
    with exporters.serve(tmp_path / "shared") as server, ThreadPoolExecutor(4) as pool:
        strange: list[tuple[bytes, bytes]] = []

        def send(data: bytes) -> None:
            answer = exporters.raw(server, data)
            if answer and (not answer.startswith(b"HTTP/1.") or answer[9:12] not in STATUSES):
                strange.append((data, answer[:200]))

        list(pool.map(send, KNOWN))
        # Of the loop's thread too: what takes the square of its length takes minutes here.
        assert exporters.processor_seconds(server) < 20
        list(pool.map(send, [mutated(chance) for _ in range(500)]))
        before, descriptors = exporters.memory(server), exporters.descriptors(server)
        for _ in range(INPUTS // 500):
            list(pool.map(send, [mutated(chance) for _ in range(500)]))
            assert live.request(server.metrics_url).status == 200
        after = exporters.memory(server)
        assert (
            live.eventually(lambda: exporters.descriptors(server), lambda n: n <= descriptors) <= descriptors
        )
        assert [] == strange
        assert [] == exporters.complaints(server)
    assert after - before < 16 * 1024 * 1024


# 503 has a reason of ours; a 500 would be a fault.
STATUSES = [b"200", b"400", b"404", b"405", b"413", b"431", b"501"]
