"""The exporter's end of the network: who may connect, and the server that answers."""

from __future__ import annotations

import ipaddress
import logging
import resource
import socket
from heapq import nlargest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from waitress.server import create_server

from wsgi_prom.exporter.http.channel import Channel
from wsgi_prom.exporter.http.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.access import Access
    from wsgi_prom.exporter.app import ExporterApp
    from wsgi_prom.settings import Settings

log = logging.getLogger("wsgi_prom")

# A scrape is a short request without a body, by one or two clients. Waitress reads in one loop and keeps slow
# clients in buffers. Two threads would do, but for passwords that are being looked at: these take up two at most.
_LIMITS: Final[dict[str, Any]] = {
    "threads": 4,
    # One record of TLS: no less, or what OpenSSL holds back wakes nobody.
    "recv_bytes": 16384,
    "max_request_header_size": 16384,
    "max_request_body_size": 16384,
    # select() ends at descriptor 1023.
    "asyncore_use_poll": True,
    # Ours are in Door: waitress' own limit is to accept nobody.
    "connection_limit": 1_000_000,
    "cleanup_interval": 1,
    # Clients that leave are no news.
    "log_socket_errors": False,
    "ident": None,
}

_ACCEPTED_AT_ONCE: Final = 64
# Connections at once; each costs 10 KB. The descriptors that it takes, and some for the files of the directory.
_CONNECTIONS: Final = 1000
_OTHER_FILES: Final = 256

# Clients that read slowly keep the page that they began with, and each may have another. Beyond the former number of bytes
# (or of pages, where a page is that large) those go, oldest first, that had the least time: what Prometheus by default
# waits for an answer. Beyond the latter the oldest go at once.
_KEPT_BYTES: Final = 64 * 1024 * 1024
_KEPT_PAGES: Final = 8
_MOST_BYTES: Final = 4 * _KEPT_BYTES
_MOST_PAGES: Final = 4 * _KEPT_PAGES
_LEAST_SECONDS: Final = 10.0


def server(app: ExporterApp, listening: socket.socket, door: Door) -> Any:
    """Return a server of *app* for those whom *door* admits, with `run` and `close`."""
    logging.getLogger("waitress").setLevel(logging.ERROR)
    made: Any = create_server(app, sockets=[listening], url_scheme=door.scheme, **_LIMITS)
    made.channel_class = door.admit
    accept = made.handle_accept
    made.handle_accept = lambda: door.accept(made, accept)
    made.maintenance = lambda _: door.sweep(made)
    return made


class Door:
    """
    Who may connect, and how many at once: one more closes that which has had most of its time.

    *access* is the one that the application asks for secrets. Raises SettingError if a file that *settings* names cannot be used. Make it before a fork, or after.
    """

    def __init__(self, settings: Settings, access: Access) -> None:
        self._access = access
        self._tls = Tls.of(settings)
        self.scheme = "https" if self._tls else "http"
        self._limit = _raise_limit()

    def accept(self, server: Any, accept: Callable[[], None]) -> None:
        """Accept a crowd in one turn of the loop: one each made a scrape among 2,500 others wait for 9.5 s."""
        for _ in range(_ACCEPTED_AT_ONCE):
            accept()
        # To stop accepting, as waitress does, would leave the exporter to whoever comes first and stays. Closed when
        # all are in: a descriptor must not be used again in the turn in which the loop may still hear of its last use.
        channels = server.active_channels.values()
        if len(channels) > self._limit:
            for channel in nlargest(len(channels) - self._limit, channels, key=attrgetter("age")):
                channel.handle_close()

    def admit(self, server: Any, connection: socket.socket, peer: Any, adj: Any, map: dict[int, Any]) -> None:  # noqa: A002
        """Make a channel of a connection that was just accepted, or close it before anything is read from it."""
        if connection.family != socket.AF_UNIX and not self._access.admits(peer[0]):
            connection.close()
            return
        try:
            connection.setblocking(False)
            Channel(server, self._tls.wrap(connection) if self._tls else connection, peer, adj, map=map)
        except (OSError, ValueError):  # gone already
            connection.close()

    def sweep(self, server: Any) -> None:
        """Close the connections whose time is over, and those of the slowest readers where the pages take too much memory."""
        for channel in list(server.active_channels.values()):
            channel.sweep()
        readers = [channel for channel in server.active_channels.values() if channel.page is not None]
        pages = {id(channel.page): len(channel.page) for channel in readers}
        held, largest = sum(pages.values()), max(pages.values(), default=0)
        for channel in sorted(readers, key=attrgetter("elapsed"), reverse=True):
            least = 0.0 if held > max(_MOST_BYTES, _MOST_PAGES * largest) else _LEAST_SECONDS
            if held <= max(_KEPT_BYTES, _KEPT_PAGES * largest) or channel.elapsed < least:
                break
            page = channel.page
            channel.handle_close()
            channel.page = None
            if not any(other.page is page for other in readers):
                held -= len(page)


def _raise_limit() -> int:
    """Raise the number of files that this process may open as far as is needed; return how many may be clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return min(_CONNECTIONS, max(soft - _OTHER_FILES, soft // 2))
    return _CONNECTIONS


def warn(listening: socket.socket, settings: Settings) -> None:
    """Say in one line who can read the metrics, if that is anybody beyond this machine."""
    if listening.family == socket.AF_UNIX:
        return
    host = listening.getsockname()[0].partition("%")[0]
    ip = ipaddress.ip_address(host)
    if (getattr(ip, "ipv4_mapped", None) or ip).is_loopback:
        return
    whom = ", ".join(map(str, settings.allow)) or "every network that reaches it"
    secrets = [
        name
        for name, value in (
            ("WSGI_PROM_TOKEN_FILE", settings.token_file),
            ("WSGI_PROM_USERS_FILE", settings.users_file),
            ("WSGI_PROM_TLS_CLIENT_CA", settings.tls_client_ca),
        )
        if value
    ]
    if secrets:
        missing = "" if settings.tls_cert else "; unencrypted, set WSGI_PROM_TLS_CERT"
        log.info("%s is open to %s, protected by %s%s", host, whom, " and ".join(secrets), missing)
    elif settings.allow:
        log.info("%s is open to %s, by WSGI_PROM_ALLOW, without a password", host, whom)
    else:
        log.warning(
            "%s is open to %s: whoever connects reads the metrics. Set WSGI_PROM_TOKEN_FILE or WSGI_PROM_USERS_FILE, "
            "with WSGI_PROM_TLS_CERT; or WSGI_PROM_ALLOW; or WSGI_PROM_BIND=127.0.0.1:%d",
            host,
            whom,
            listening.getsockname()[1],
        )
