"""
One client's connection to the exporter: waitress' channel, with deadlines that no client can put off, one request at a
time, and TLS.

TLS is a non-blocking handshake and the same two calls, recv and send, in waitress' own loop. Tried instead: cheroot
shakes hands in the loop that accepts, so that three connections that stay silent kept a scrape waiting for 29.7 s. A
relay in front of waitress would be a second server to bound, and would have hidden the client's address from it.
"""

# Rule 1: nothing that a client does or leaves undone keeps its connection beyond the deadline of its phase.
# Rule 2: a connection has at most one request in hand: what is sent after it in one go is dropped with the connection.
# Rule 3: the loop's thread never waits for a client, the handshake included.

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from typing import Any, Final

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import WSGITask
from waitress.utilities import BadRequest

from wsgi_prom.exporter.page_cache import ARRIVAL, PageFile

# Seconds. A scrape's head is one packet, sent at once; counted from the connection or from the request's first byte.
HEAD: Final = 10.0
# Longer than the usual scrape intervals, so that Prometheus need not connect and shake hands for each.
IDLE: Final = 120.0
# The collection and the client's reading of it. Prometheus itself gives up after 10 s by default.
ANSWER: Final = 120.0

# What one send takes from a page: a longer piece is copied only for the kernel to refuse most of it.
_PIECE: Final = 65536
# For the kernel to keep for each client, which doubles it. By default that may grow to 4 MB: a thousand clients that
# do not read would hold 4 GB.
_SEND_BUFFER: Final = 65536


# Two expressions of waitress 3.0.2 take the square of a line's length to refuse it: 16 KB of blanks, or of a target
# that something else follows, held the loop for more than 5 s. These are linear, and ask for less.
_FIRST_LINE: Final = re.compile(rb"[^ ]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
_BLANKS: Final = re.compile(rb"[ \t]{64}")


class Parser(HTTPRequestParser):
    """The request, and when all of it was here."""

    arrival = 0.0
    headers: dict[str, str]

    def received(self, data: bytes) -> int:
        length = len(data)
        if self.body_rcv is None and not self.header_plus:
            # A client may send blank lines before a request. They are not one: no deadline starts anew.
            data = data.lstrip(b"\r\n")
            if not data:
                return length
        blank = length - len(data)
        try:
            consumed = blank + int(super().received(data))
        except ValueError:
            # From waitress 3.0.2 for a Content-Length of more than 4300 digits, and for `GET http://[`.
            self.error = BadRequest("The request cannot be understood.")
            consumed, self.completed = 0, True
        # Nobody waits for the answer: a client sends its body after a second all the same.
        self.expect_continue = False
        if not self.completed:
            return consumed
        self.arrival = time.monotonic()
        if consumed < length:
            self.headers["CONNECTION"] = "close"
        return length

    def parse_header(self, header_plus: bytes) -> None:
        line = header_plus.partition(b"\r\n")[0].rstrip()
        if _FIRST_LINE.fullmatch(line) is None or _BLANKS.search(header_plus):
            raise ParsingError("The request's head is malformed.")
        super().parse_header(header_plus)


class Task(WSGITask):
    """The request's answer by the application, which is told when the request arrived."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        request: Any = self.request
        environ[ARRIVAL] = request.arrival
        return environ


class Channel(HTTPChannel):
    """A connection that has been accepted; *sock* may be an SSLSocket that has yet to shake hands."""

    parser_class = Parser
    task_class = Task
    socket: Any  # None when closed

    def __init__(self, server: Any, sock: socket.socket, addr: Any, adj: Any, map: dict[int, Any]) -> None:  # noqa: A002
        self._since, self._allowed = time.monotonic(), HEAD
        self._handshake = isinstance(sock, ssl.SSLSocket)
        self._handshake_writes = False
        # OpenSSL's connections are not for two threads at once: the loop's and the one that answers.
        self._turn = threading.Lock()
        # The bytes of the page that is being sent, which others may be sent at the same time.
        self.page: bytes | None = None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        super().__init__(server, sock, addr, adj, map=map)
        self.sendbuf_len = _PIECE

    @property
    def age(self) -> float:
        """How much of the time that it may take for what it is at is over: 1 is all of it."""
        return self.elapsed / self._allowed

    @property
    def elapsed(self) -> float:
        """Seconds since it began with what it is at: a request's head, its answer, or waiting for the next request."""
        return time.monotonic() - self._since

    def sweep(self) -> None:
        """Close the connection if its time is over. To be called from the loop, every second or so."""
        if self._allowed == ANSWER and not self.requests and not self.total_outbufs_len:
            self._enter(IDLE)
            self.page = None
        if self.age > 1:
            # Not will_close, as waitress has it: that waits until the client takes bytes.
            self.handle_close()

    # Of a channel that was closed in this turn of the loop, waitress asks all the same. What it would poll for is a
    # descriptor that the next client may have by then, who was hung up on: 1 of 200 (tried).
    def readable(self) -> bool:
        return self.socket is not None and bool(super().readable())

    def writable(self) -> bool:
        if self.socket is None:
            return False
        return self._handshake_writes if self._handshake else bool(super().writable())

    def handle_read(self) -> None:
        if self._handshake and not self._shake_hands():
            return
        try:
            with self._turn:
                data = self.socket.recv(self.adj.recv_bytes)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return
        except OSError:
            data = b""
        if data:
            self.last_activity = time.time()
            self.received(data)
        else:
            self.handle_close()

    def handle_write(self) -> None:
        if self._handshake:
            self._shake_hands()
        elif self.socket is not None:
            super().handle_write()

    def handle_expt(self) -> None:
        # Urgent data: unread, it would wake the loop again and again.
        self.handle_close()

    def received(self, data: bytes) -> bool:
        if self.request is None and self._allowed != HEAD:
            self._enter(HEAD)
        parser = self.request = self.request or self.parser_class(self.adj)
        taken = bool(super().received(data))
        if parser.completed:
            self._enter(ANSWER)
        return taken

    def send(self, data: bytes, do_close: bool = True) -> int:  # noqa: ARG002
        # Never closed from in here: the turn is still ours, and the loop closes what has gone.
        try:
            with self._turn:
                sent: int = super().send(data, do_close=False)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        return sent

    def write_soon(self, data: Any) -> int:
        if isinstance(data, ReadOnlyFileBasedBuffer) and isinstance(data.file, PageFile):
            self.page = data.file.content
        written: int = super().write_soon(data)
        return written

    def _enter(self, allowed: float) -> None:
        self._since, self._allowed = time.monotonic(), allowed

    def _shake_hands(self) -> bool:
        self._handshake_writes = False
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self._handshake_writes = True
            return False
        except (OSError, ValueError):  # not TLS, no certificate that we know, gone
            self.handle_close()
            return False
        self._handshake = False
        return True
