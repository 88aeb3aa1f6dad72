"""
The exporter's HTTP server: waitress, and who may connect, how many at once, for how long and for how much memory.

1. A connection beyond the limit replaces the one that has used most of its time. The exporter never stops accepting.
2. Clients that read slowly keep a bounded number of bytes in memory.
"""

from __future__ import annotations

import logging
import resource
import socket
from contextlib import ExitStack
from heapq import nlargest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from wsgi_prom.exporter.http.channel import Channel

if TYPE_CHECKING:
    from wsgi_prom.exporter.access import Access
    from wsgi_prom.exporter.app import ExporterApp

# A scrape is a short request without a body, by one or two clients. Waitress reads in one loop and buffers what slow clients
# send and read. Two threads would do for pages; checks of passwords occupy two more at most, and so do scrapes that wait for a
# source of the server's figures for longer than a second, and the page for people.
LIMITS: Final[dict[str, Any]] = {
    "threads": 8,
    # One TLS record: poll would not tell the loop of the rest of a record, which OpenSSL holds back.
    "recv_bytes": 16384,
    "max_request_header_size": 16384,
    "max_request_body_size": 16384,
    # select() ends at descriptor 1023.
    "asyncore_use_poll": True,
    # The limit is that of Admission: waitress would accept no connection beyond its own.
    "connection_limit": 1_000_000,
    "cleanup_interval": 1,
    # A client that leaves is not worth a line.
    "log_socket_errors": False,
    "ident": None,
}

# Connections at once; each costs 10 KB. The other descriptors are for the files of the directory.
CONNECTIONS: Final = 1000
_OTHER_FILES: Final = 256
_ACCEPTED_AT_ONCE: Final = 64

# Clients that read slowly keep the page that they began with, and each may have another one. The last pages stay in memory
# up to this number of bytes, or of the largest page; the connections of clients that read older ones are closed.
_KEPT_BYTES: Final = 64 * 1024 * 1024
_KEPT_PAGES: Final = 8


def make_server(
    app: ExporterApp,
    listening: socket.socket,
    access: Access,
    connections: int = CONNECTIONS,
    threads: int = LIMITS["threads"],
) -> Any:
    """
    Return a waitress server of *app* for the clients that *access* lets in, with `run` and `close`.

    It has at most *connections* at once: see `allowed_connections`.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)
    limits = {**LIMITS, "threads": threads}
    dispatcher = ThreadedTaskDispatcher()
    # Its trigger needs three descriptors. waitress 3.0.2 leaves two of them open if it does not get the third.
    with ExitStack() as tried:
        for _ in range(3):
            tried.enter_context(listening.dup())
    made: Any = create_server(
        app, _dispatcher=dispatcher, sockets=[listening], url_scheme=scheme(access), **limits
    )
    # Only now: create_server would leave its threads behind if it fails.
    dispatcher.set_thread_count(threads)
    admission = Admission(made, access, connections)
    # waitress calls channel_class(server, socket, address, adjustments, map=...) for each connection.
    made.channel_class, made.handle_accept = admission.admit, admission.accept
    made.maintenance = lambda _: admission.sweep()
    return made


def scheme(access: Access) -> str:
    web = access.web
    return "https" if web and web.tls else "http"


def allowed_connections() -> int:
    """Raise the number of files that this process may open as far as needed; return how many may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return CONNECTIONS
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(soft - _OTHER_FILES, soft // 2)


class Admission:
    """Accepts connections of *waitress*, a server, for clients that *access* admits, and closes those beyond a limit."""

    def __init__(self, waitress: Any, access: Access, connections: int) -> None:
        self._server = waitress
        self._accept_one = waitress.handle_accept
        self._access = access
        self._connections = connections

    def accept(self) -> None:
        """Accept many connections in one turn of the loop: with one each a scrape among 2,500 others waited for 9.5 s."""
        for _ in range(_ACCEPTED_AT_ONCE):
            self._accept_one()
        # Close others only now: a new connection must not get a descriptor of which the loop may still hear in this turn.
        channels = self._server.active_channels.values()
        if len(channels) > self._connections:
            for channel in nlargest(len(channels) - self._connections, channels, key=attrgetter("age")):
                channel.handle_close()

    def admit(self, waitress: Any, connection: socket.socket, peer: Any, adj: Any, **options: Any) -> None:
        """Make a channel of a connection that was just accepted, or close it before anything is read from it."""
        if connection.family != socket.AF_UNIX and not self._access.admits(peer[0]):
            connection.close()
            return
        web = self._access.web
        try:
            connection.setblocking(False)
            if web and web.tls:
                connection = web.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            Channel(waitress, connection, peer, adj, **options)
        except (OSError, ValueError):  # the client has gone
            connection.close()

    def sweep(self) -> None:
        """Close the connections whose time is over, and those of slow readers whose pages take too much memory."""
        for channel in list(self._server.active_channels.values()):
            channel.sweep()
        readers: dict[int, list[Channel]] = {}
        for channel in sorted(self._server.active_channels.values(), key=attrgetter("elapsed")):
            if channel.content is not None:
                readers.setdefault(id(channel.content), []).append(channel)
        sizes = {page: len(channels[0].content or b"") for page, channels in readers.items()}
        left = max(_KEPT_BYTES, _KEPT_PAGES * max(sizes.values(), default=0))
        # The pages of the latest readers come first.
        for page, channels in readers.items():
            left -= sizes[page]
            if left < 0:
                for channel in channels:
                    channel.handle_close()
