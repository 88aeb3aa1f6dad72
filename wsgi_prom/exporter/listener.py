"""The exporter's end of the network: the socket that it listens on, who may connect, and the server that answers."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import resource
import socket
import stat
from contextlib import suppress
from heapq import nlargest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from waitress.server import create_server

from wsgi_prom.errors import WsgiPromError
from wsgi_prom.exporter.channel import Channel
from wsgi_prom.exporter.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.access import Access
    from wsgi_prom.exporter.app import ExporterApp
    from wsgi_prom.settings import Address, Settings

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

_BACKLOG: Final = 1024
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


class AddressInUseError(WsgiPromError):
    """The exporter cannot listen where it was told to."""


def bind(address: Address, mode: int = 0o600) -> socket.socket:
    """
    Return a socket that listens on *address*, with *mode* if that is the path of one.

    Raises AddressInUseError.
    """
    try:
        return _bind_path(address.path, mode) if address.path else _bind_host(address)
    except (OSError, UnicodeError) as error:  # the latter for a host with an empty or too long label
        raise AddressInUseError(
            f"no exporter: cannot listen on WSGI_PROM_BIND={str(address)!r}: {getattr(error, 'strerror', None) or error}. The "
            "application is served without. Set WSGI_PROM_BIND to an address of this server's own, or to off."
        ) from error


def url(listening: socket.socket, scheme: str = "http") -> str:
    """Return the URL of the metrics, with the port that the system chose if it was asked to."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}/metrics" if ":" in host else f"{scheme}://{host}:{port}/metrics"


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


def _bind_host(address: Address) -> socket.socket:
    family, kind, protocol, _, name = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(name)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _bind_path(path: str, mode: int) -> socket.socket:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # EAGAIN: its backlog is full
        if probe.connect_ex(path) not in {errno.ECONNREFUSED, errno.ENOENT}:
            raise OSError(f"{path} is answered by another process, or may not be asked")
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - of a server that is gone
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Made with the mode that it has later: no moment in which others could connect.
        before = os.umask(0o777 & ~mode)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
