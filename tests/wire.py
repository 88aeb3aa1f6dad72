"""
HTTP as bytes on a socket, for tests that compare what two servers send, byte for byte. Only the end of an answer is
parsed, to know when to send the next request.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

# Only a server that neither answers nor closes makes a test wait so long.
WAIT_SECONDS: Final = 20.0

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"(?im)^Content-Length:[ \t]*(\d+)[ \t]*\r$")
CHUNKED: Final = re.compile(rb"(?im)^Transfer-Encoding:.*chunked[ \t]*\r$")
INTERIM: Final = re.compile(rb"HTTP/1\.\d 1\d\d .*\r\n\r\n")
BODILESS: Final = re.compile(rb"HTTP/1\.\d (?:1\d\d|204|304)\b")
DATE: Final = re.compile(rb"(?im)^(Date:) .*? GMT\r$")

# ESTABLISHED and CLOSE_WAIT, of include/net/tcp_states.h.
UNCLOSED: Final = ("01", "08")

# Asked last on a connection: whether it is answered tells whether the connection was still open, and its answer that
# nothing was left over from those before it.
LAST: Final = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Connection:
    """A TCP connection to a server, for the length of a `with` block."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), WAIT_SECONDS)
        # A small request after another must not wait for the other end's acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send *data*. It is no error if the server has closed the connection: its answer can still be read."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def answer(self, method: str = "GET") -> bytes:
        """
        Return one answer to a request of *method*, or what there was until the server closed; "100 Continue" is one.
        """
        while HEAD_END not in self._buffer and self._receive():
            pass
        head, _, _ = self._buffer.partition(HEAD_END)
        return self._take(self._end(head + b"\r", method, len(head) + len(HEAD_END)))

    def final_answer(self, method: str = "GET") -> bytes:
        """
        Return one answer and the interim ones before it.
        """
        found = last = self.answer(method)
        while INTERIM.match(last):
            last = self.answer(method)
            found += last
        return found

    def rest(self) -> bytes:
        """
        Return all that comes until the server closes the connection.
        """
        while self._receive():
            pass
        return self._take(len(self._buffer))

    def half_close(self) -> None:
        """Tell the server that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def go_away(self) -> None:
        """Close with a reset, as a client does that dies: further sends of the server fail."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def read(self, size: int) -> bytes:
        """
        Return *size* bytes, fewer only if the server closed.
        """
        while len(self._buffer) < size and self._receive():
            pass
        return self._take(size)

    def _receive(self) -> bool:
        try:
            data = b"" if self._closed else self._socket.recv(65536)
        except ConnectionError:
            # A server that closes while there is something it has not read resets: by then all it sent is here. Which
            # of the two ends a connection depends on what arrived first, so that no test may tell them apart.
            data = b""
        self._closed = not data
        self._buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _end(self, head: bytes, method: str, start: int) -> int:
        if method == "HEAD" or BODILESS.match(head):
            return start
        if CHUNKED.search(head):
            return self._chunks_end(start)
        length = LENGTH.search(head)
        while self._receive_until(start + int(length[1]) if length else None):
            pass
        return start + int(length[1]) if length else len(self._buffer)

    def _receive_until(self, size: int | None) -> bool:
        return (size is None or len(self._buffer) < size) and self._receive()

    def _chunks_end(self, start: int) -> int:
        while True:
            while b"\r\n" not in self._buffer[start:]:
                if not self._receive():
                    return len(self._buffer)
            line_end = self._buffer.index(b"\r\n", start)
            size = int(self._buffer[start:line_end].split(b";")[0], 16)
            start = line_end + 2 + size + 2
            while len(self._buffer) < start:
                if not self._receive():
                    return len(self._buffer)
            if size == 0:
                return start


def request(
    path: str,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """
    Return a request as a client of HTTP *version* writes it.
    """
    lines = [
        f"{method} {path} HTTP/{version}",
        "Host: localhost",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + HEAD_END + body


def steady(data: bytes, url: str) -> bytes:
    """
    Return *data* with what differs from one moment, and from one server, to the other replaced: dates and the port.
    """
    port = str(urlsplit(url).port).encode()
    return DATE.sub(rb"\1 *\r", data).replace(b":" + port, b":PORT")


def connections(pid: int, port: int) -> set[int]:
    """Return the clients' ports of the connections to *port* whose end the process *pid* has not closed: proc_pid_net(5)."""
    rows = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    found = ((row[1].partition(":")[2], row[2].partition(":")[2], row[3]) for row in rows)
    return {int(remote, 16) for own, remote, state in found if int(own, 16) == port and state in UNCLOSED}


def exchange(url: str, data: bytes) -> bytes:
    """
    Send *data* on a connection of its own, and return all that comes back until the server closes it.
    """
    with Connection(url) as connection:
        connection.send(data)
        return steady(connection.rest(), url)


def in_turn(url: str, data: bytes, method: str, *, closing: bool = True) -> dict[str, bytes]:
    """
    Send *data*, wait for its answer, and send a second request on the same connection. If the server is not *closing*
    it when asked to, the second answer is read to its own end.
    """
    with Connection(url) as connection:
        connection.send(data)
        answers = {"answer": connection.final_answer(method)}
        connection.send(LAST)
        answers["then"] = connection.rest() if closing else connection.answer()
    return {name: steady(found, url) for name, found in answers.items()}


def readable(found: Mapping[str, bytes]) -> str:
    """
    Return exchanges line by line, so that a failed comparison shows where they part.
    """
    return "\n".join(
        f"{name}> {line!r}" for name, data in found.items() for line in data.splitlines(keepends=True)
    )
