"""Sizes, queue time and aborted requests on real servers, where the bytes really pass."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import live
import pytest
import servers
from servers import value

SERVERS = ["gunicorn gthread", "uwsgi prefork"]
FILE_SIZE = (live.APPS / "measured.py").stat().st_size


def summary(
    samples: live.Samples, name: str, route: str, method: str = "GET"
) -> tuple[float | None, float | None]:
    """Return the number and the sum of what was observed."""
    labels = {"method": method, "route": route}
    return value(samples, f"{name}_count", **labels), value(samples, f"{name}_sum", **labels)


@pytest.mark.parametrize("name", SERVERS)
def test_sizes_queue_time_and_aborts(name: str) -> None:
    """Bodies in both directions, a sent file, a wait told by a proxy's header and a client that leaves are measured."""
    with servers.start(name, app="measured:app", workers=2) as server:
        for _ in range(3):
            assert len(server.get("/file").body) == FILE_SIZE
            assert len(server.get("/").body) == 1000
            assert len(server.get("/input", method="POST", body=b"b" * 500).body) == 500
        server.get("/", headers={"X-Request-Start": f"t={time.time() - 20:.3f}"})
        address = urlsplit(server.url)
        for _ in range(2):
            with socket.create_connection((address.hostname, address.port), 30) as client:
                client.sendall(b"GET /endless HTTP/1.0\r\n\r\n")
                received = client.recv(20_000)
        samples = live.eventually(
            server.samples,
            lambda found: value(found, "http_requests_aborted_total", method="GET", route="/endless") == 2,
        )
    assert received.startswith(b"HTTP/1.")
    assert summary(samples, "http_response_size_bytes", "/file") == (3, 3 * FILE_SIZE)
    assert summary(samples, "http_response_size_bytes", "/") == (4, 4000)
    assert summary(samples, "http_request_size_bytes", "/input", "POST") == (3, 1500)
    assert summary(samples, "http_request_size_bytes", "/") == (4, 0)
    assert value(samples, "http_requests_aborted_total", method="GET", route="/endless") == 2
    assert value(samples, "http_requests_total", method="GET", route="/endless", status="200") == 2
    assert value(samples, "http_requests_aborted_total", method="GET", route="/") == 0
    assert value(samples, "http_requests_in_progress") == 0
    assert value(samples, "http_request_queue_seconds_count") == 1
    assert value(samples, "http_request_queue_seconds_bucket", le="10.0") == 0
    assert value(samples, "http_request_queue_seconds_bucket", le="30.0") == 1
    assert {frozenset({("stage", "storage")}): 0.0} == live.labelled(samples, "wsgi_prom_errors_total")


def test_a_chunked_upload_is_counted_as_it_is_read() -> None:
    """The size of a chunked body is what the application read, since gunicorn passes on no length."""
    with live.gunicorn("measured:app", workers=1) as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), 30) as client:
            client.sendall(
                b"POST /input HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5\r\nabcde\r\n7\r\nfghijkl\r\n0\r\n\r\n"
            )
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        samples = server.samples()
    assert b"abcdefghijkl" in answer
    assert summary(samples, "http_request_size_bytes", "/input", "POST") == (1, 12)
