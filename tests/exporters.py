"""
Exporters for tests: `wsgi-prom serve` on a directory of files in the client library's own format, and hostile clients.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import live
import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTENING: Final = re.compile(r"wsgi_prom: metrics at (\S+)")
GET: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
# Generous: only a failing test waits to the end.
SECONDS: Final = 60.0

# A counter of the client library in its multiprocess mode: what it says is known, and needs no server.
_FILL: Final = """
import sys
from prometheus_client import Counter
counter = Counter("filled_total", "Filled for a test.", ["series"])
for number in range(int(sys.argv[1])):
    counter.labels(f"{number:060}").inc()
"""


def fill(directory: Path, series: int) -> None:
    """Put *series* children of a counter `filled_total` into *directory*, some 85 bytes of a page each."""
    directory.mkdir(mode=0o700, exist_ok=True)
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", _FILL, str(series)], env=env, check=True, timeout=SECONDS)


# Requests of many routes, as this package counts them.
_FILL_ROUTES: Final = """
import sys
from prometheus_client import Counter, Histogram
from wsgi_prom.client import patch
patch.install()
counter = Counter("http_requests", "Requests.", ["method", "route", "status"])
durations = Histogram("http_request_duration_seconds", "Durations.", ["method", "route"])
for number in range(int(sys.argv[1])):
    counter.labels("GET", f"/{number:05}", "200").inc(number)
    durations.labels("GET", f"/{number:05}").observe(0.1)
"""


def fill_routes(directory: Path, routes: int) -> None:
    """Put requests of so many *routes* into *directory*, `/00000` and on: the first has had none, the second one, and so on."""
    directory.mkdir(mode=0o700, exist_ok=True)
    env = live.environment({"PROMETHEUS_MULTIPROC_DIR": str(directory)}, runtime=live.ROOT)
    subprocess.run([sys.executable, "-c", _FILL_ROUTES, str(routes)], env=env, check=True, timeout=SECONDS)


def command(directory: Path, bind: str = "127.0.0.1:0") -> list[str]:
    return [sys.executable, "-m", "wsgi_prom", "serve", "--directory", str(directory), "--bind", bind]


def serve(directory: Path, bind: str = "127.0.0.1:0", **env: str) -> live.LiveServer:
    """Return an exporter of *directory*, not yet started."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return live.LiveServer(command(directory, bind), env=env, ready=(LISTENING, 1))


def address(server: live.LiveServer) -> tuple[str, int]:
    """Return the host and port of a running exporter."""
    found = re.search(r"//(.+):(\d+)/", server.wait_for_log(LISTENING)[1])
    assert found is not None
    return found[1].strip("[]"), int(found[2])


def connect(server: live.LiveServer, *, window: int | None = None) -> socket.socket:
    """Return a connection, with a receive buffer of *window* bytes: what is beyond stays with the exporter."""
    connection = socket.socket()
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(SECONDS)
    connection.connect(address(server))
    return connection


@contextlib.contextmanager
def crowd(
    server: live.LiveServer, number: int, sending: bytes = b"", *, window: int | None = None
) -> Iterator[list[socket.socket]]:
    """Have *number* clients connect and send *sending*, and leave at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number + 500, hard), hard))
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(connect(server, window=window))
            if sending:
                client.sendall(sending)
            clients.append(client)
        yield clients


def until_closed(connection: socket.socket) -> bytes:
    """Read until the exporter closes, and return what came."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def raw(server: live.LiveServer, data: bytes) -> bytes:
    """Send *data* on a connection of its own, and return all that comes back."""
    with connect(server) as connection:
        with contextlib.suppress(OSError):  # closed before all was sent; ENOTCONN is no ConnectionError
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return until_closed(connection)


def memory(server: live.LiveServer) -> int:
    """Return the bytes of memory that the exporter's process has in use."""
    text = Path(f"/proc/{server.pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


def descriptors(server: live.LiveServer) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def holds(server: live.LiveServer, client: socket.socket) -> bool:
    """Return whether the exporter has not closed its end of the connection of *client*."""
    return client.getsockname()[1] in wire.connections(server.pid, address(server)[1])


def processor_seconds(server: live.LiveServer) -> float:
    """Return how long the exporter's process has kept a processor busy."""
    user, system = live.stat_fields(server.pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def complaints(server: live.LiveServer) -> list[str]:
    """Return what the exporter's log says beyond where it listens."""
    return [line for line in server.log().splitlines() if not LISTENING.search(line)]
