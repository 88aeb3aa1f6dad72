"""
One client's connection to the exporter: waitress' channel with deadlines, one request at a time, and TLS.

1. No client can keep its connection beyond the deadline of its phase: see SECONDS.
2. A connection has at most one request in progress. Bytes that a client sends beyond it are dropped with the connection.
3. The loop's thread never waits for a client, also not during the handshake of TLS.

TLS is a non-blocking handshake and the same two calls, recv and send, in waitress' own loop. Tried instead: cheroot
shakes hands in the loop that accepts, so that three silent connections kept a scrape waiting for 29.7 s. A relay in
front of waitress would be a second server with limits of its own, and would hide the client's address from waitress.

tests/test_waitress.py names all internals of waitress that this package relies on.
"""

from __future__ import annotations

import io
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

from wsgi_prom.exporter.responses import ARRIVAL

# Seconds that each phase of a connection may take.
SECONDS: Final = {
    # From the connection, or a request's first byte, to its last. The head of a scrape is one packet, sent at once.
    "request": 10.0,
    # For the collection and for the client to read the page. Prometheus itself gives up after 10 s by default.
    "answer": 120.0,
    # Between two requests. Longer than the usual scrape intervals: Prometheus need not connect for each scrape.
    "idle": 120.0,
}

# Bytes of a page for one send: a longer piece is copied, and the kernel refuses most of it.
_PIECE: Final = 65536
# Bytes that the kernel may buffer for each client (it doubles them). Its own limit is 4 MB: 4 GB for a thousand clients that
# do not read.
_SEND_BUFFER: Final = 65536

# Two regular expressions of waitress 3.0.2 need quadratic time to refuse a line: 16 KB of blanks, or of a target that another
# word follows, held the loop for more than 5 s. These two are linear, and the parser checks them first.
_FIRST_LINE: Final = re.compile(rb"[^ ]+ [^ ]+(?: HTTP/[0-9]\.[0-9])?")
_BLANKS: Final = re.compile(rb"[ \t]{64}")


class Parser(HTTPRequestParser):
    """A request, with the time (time.monotonic) at which all of it had arrived."""

    arrival = 0.0
    headers: dict[str, str]

    def received(self, data: bytes) -> int:
        length = len(data)
        if self.body_rcv is None and not self.header_plus:
            # Blank lines before a request are not part of it: they start no new deadline.
            data = data.lstrip(b"\r\n")
            if not data:
                return length
        blank = length - len(data)
        try:
            consumed = blank + int(super().received(data))
        except ValueError:
            # waitress 3.0.2 raises it for a Content-Length of more than 4300 digits, and for `GET http://[`.
            self.error = BadRequest("The request cannot be understood.")
            consumed, self.completed = 0, True
        # No 100 Continue: a client that waits for it sends its body after a second all the same.
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
    """The call of the application, with the time at which the request arrived."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        request: Any = self.request
        environ[ARRIVAL] = request.arrival
        return environ


class Channel(HTTPChannel):
    """A connection that was accepted; *sock* may be an SSLSocket before its handshake."""

    parser_class = Parser
    task_class = Task
    socket: Any  # None once closed

    def __init__(self, server: Any, sock: socket.socket, addr: Any, adj: Any, **options: Any) -> None:
        self._since, self._phase = time.monotonic(), "request"
        self._handshake = isinstance(sock, ssl.SSLSocket)
        self._handshake_writes = False
        # The loop's thread and the one that answers both use the connection, and OpenSSL's is for one thread at a time.
        self._io_lock = threading.Lock()
        # The page that is being sent. Other channels may be sending the same object.
        self.content: bytes | None = None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        super().__init__(server, sock, addr, adj, **options)
        self.sendbuf_len = _PIECE

    @property
    def age(self) -> float:
        """The share of its phase's time that has passed; 1 at the deadline."""
        return self.elapsed / SECONDS[self._phase]

    @property
    def elapsed(self) -> float:
        """Seconds since its phase began."""
        return time.monotonic() - self._since

    def sweep(self) -> None:
        """Close the connection if its time is over. Call it in the loop's thread, about once a second."""
        if self._phase == "answer" and not self.requests and not self.total_outbufs_len:
            self._enter("idle")
            self.content = None
        if self.age > 1:
            # Not waitress' will_close, which waits until the client takes bytes.
            self.handle_close()

    # Waitress also asks channels that were closed in this turn of the loop, and would poll their descriptors, which new
    # clients may have by then: 1 of 200 new connections was closed (measured).
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
            with self._io_lock:
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
        # Urgent data, which would wake the loop again and again until it is read.
        self.handle_close()

    def received(self, data: bytes) -> bool:
        if self.request is None and self._phase != "request":
            self._enter("request")
        parser = self.request = self.request or self.parser_class(self.adj)
        taken = bool(super().received(data))
        if parser.completed:
            self._enter("answer")
        return taken

    def send(self, data: bytes, *_: object, **__: object) -> int:
        # do_close=False: the lock is held here. The loop closes the connection.
        try:
            with self._io_lock:
                sent: int = super().send(data, do_close=False)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        return sent

    def write_soon(self, data: Any) -> int:
        if isinstance(data, ReadOnlyFileBasedBuffer) and isinstance(data.file, io.BytesIO):
            # The very object that app.py made it of: CPython copies it only for a write.
            self.content = data.file.getvalue()
        written: int = super().write_soon(data)
        return written

    def _enter(self, phase: str) -> None:
        self._since, self._phase = time.monotonic(), phase

    def _shake_hands(self) -> bool:
        self._handshake_writes = False
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self._handshake_writes = True
            return False
        except (OSError, ValueError):  # not TLS, no certificate of ours, or the client has gone
            self.handle_close()
            return False
        self._handshake = False
        return True
