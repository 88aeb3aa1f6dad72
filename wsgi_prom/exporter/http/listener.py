"""
The exporter's listening socket, and the server that accepts connections from it.

1. A connection beyond the limit replaces the one that has used most of its time. The exporter never stops accepting.
2. Clients that read slowly keep a bounded number of bytes in memory.
"""

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
from wsgi_prom.exporter.http.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.exporter.access import Access
    from wsgi_prom.exporter.app import ExporterApp
    from wsgi_prom.settings import Address, Settings

log = logging.getLogger("wsgi_prom")

_BACKLOG: Final = 1024

# A scrape is a short request without a body, by one or two clients. Waitress reads in one loop and keeps slow clients
# in buffers. Two threads would do for pages; passwords that are checked take up two more at most.
_LIMITS: Final[dict[str, Any]] = {
    "threads": 4,
    # One TLS record: the loop would not be told of what OpenSSL holds back of it.
    "recv_bytes": 16384,
    "max_request_header_size": 16384,
    "max_request_body_size": 16384,
    # select() ends at descriptor 1023.
    "asyncore_use_poll": True,
    # Admission has the limit: waitress would accept no connection beyond its own.
    "connection_limit": 1_000_000,
    "cleanup_interval": 1,
    # A client that leaves is not worth a line.
    "log_socket_errors": False,
    "ident": None,
}

_ACCEPTED_AT_ONCE: Final = 64
# Connections at once; each costs 10 KB. The other descriptors are for the files of the directory.
_CONNECTIONS: Final = 1000
_OTHER_FILES: Final = 256

# Clients that read slowly keep the page that they began with, and each may have another one. Beyond the former number of
# bytes (or of the largest page) connections are closed, oldest first, that had the least time: what Prometheus by default
# waits for an answer. Beyond the latter the oldest are closed at once.
_KEPT_BYTES: Final = 64 * 1024 * 1024
_KEPT_PAGES: Final = 8
_MOST_BYTES: Final = 4 * _KEPT_BYTES
_MOST_PAGES: Final = 4 * _KEPT_PAGES
_LEAST_SECONDS: Final = 10.0


class AddressInUseError(WsgiPromError):
    """The exporter cannot listen where it was told to."""


class Listening:
    """
    A socket that listens on *address*, with *mode* if that is a path; *inherited* is its descriptor if it does so already.

    Raises AddressInUseError. Each of the processes that share it after a fork may close it.
    """

    def __init__(self, address: Address, mode: int = 0o600, *, inherited: int | None = None) -> None:
        try:
            if inherited is not None:
                self.socket = socket.socket(fileno=inherited)
                self.socket.set_inheritable(False)
            else:
                self.socket = _bind_path(address.path, mode) if address.path else _bind_host(address)
        except (OSError, UnicodeError) as error:  # the latter for a host with an empty or too long label
            why = getattr(error, "strerror", None) or error
            raise AddressInUseError(
                f"cannot listen on WSGI_PROM_BIND={str(address)!r}: {why}. Set it to another address, or to off."
            ) from error
        self._path = address.path
        self._bound = None
        with suppress(FileNotFoundError):  # somebody has removed it since it was bound
            self._bound = os.lstat(address.path) if address.path else None

    def url(self, scheme: str = "http") -> str:
        """Return the URL of the metrics, with the port that the system chose for port 0."""
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{self._path}"
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}/metrics" if ":" in host else f"{scheme}://{host}:{port}/metrics"

    def close(self) -> None:
        """Close the socket in this process, and remove its path. Never raises."""
        with suppress(OSError):
            # Another exporter may have bound the path meanwhile.
            if self._bound is not None and os.path.samestat(self._bound, os.lstat(self._path)):
                os.unlink(self._path)  # noqa: PTH108 - beside its lstat
        # Another socket may have the same inode once this one is closed.
        self._bound = None
        self.socket.close()


class Admission:
    """
    Who may connect, how many at once, and for how long.

    *access* knows the networks and the TLS context; it is the application's own. Make it before a fork, or after.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._limit = _raise_limit()

    @property
    def scheme(self) -> str:
        return "https" if self._access.web and self._access.web.tls else "http"

    def accept(self, server: Any, accept: Callable[[], None]) -> None:
        """Accept many connections in one turn of the loop: with one each a scrape among 2,500 others waited for 9.5 s."""
        for _ in range(_ACCEPTED_AT_ONCE):
            accept()
        # After all are accepted: a descriptor must not be used again in the turn in which the loop may still hear of
        # its last use.
        channels = server.active_channels.values()
        if len(channels) > self._limit:
            for channel in nlargest(len(channels) - self._limit, channels, key=attrgetter("age")):
                channel.handle_close()

    def admit(self, server: Any, connection: socket.socket, peer: Any, adj: Any, map: dict[int, Any]) -> None:  # noqa: A002
        """Make a channel of a connection that was just accepted, or close it before anything is read from it."""
        if connection.family != socket.AF_UNIX and not self._access.admits(peer[0]):
            connection.close()
            return
        web = self._access.web
        try:
            connection.setblocking(False)
            if web and web.tls:
                connection = web.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            Channel(server, connection, peer, adj, map=map)
        except (OSError, ValueError):  # the client has gone
            connection.close()

    def sweep(self, server: Any) -> None:
        """Close connections whose time is over, and the slowest readers if what they read takes too much memory."""
        for channel in list(server.active_channels.values()):
            channel.sweep()
        readers = [channel for channel in server.active_channels.values() if channel.content is not None]
        pages = {id(channel.content): len(channel.content) for channel in readers}
        held, largest = sum(pages.values()), max(pages.values(), default=0)
        for channel in sorted(readers, key=attrgetter("elapsed"), reverse=True):
            least = 0.0 if held > max(_MOST_BYTES, _MOST_PAGES * largest) else _LEAST_SECONDS
            if held <= max(_KEPT_BYTES, _KEPT_PAGES * largest) or channel.elapsed < least:
                break
            content = channel.content
            channel.handle_close()
            channel.content = None
            if not any(other.content is content for other in readers):
                held -= len(content)


def server(app: ExporterApp, listening: socket.socket, admission: Admission) -> Any:
    """Return a waitress server of *app* for the clients that *admission* lets in, with `run` and `close`."""
    logging.getLogger("waitress").setLevel(logging.ERROR)
    made: Any = create_server(app, sockets=[listening], url_scheme=admission.scheme, **_LIMITS)
    made.channel_class = admission.admit
    accept = made.handle_accept
    made.handle_accept = lambda: admission.accept(made, accept)
    made.maintenance = lambda _: admission.sweep(made)
    return made


def warn(listening: socket.socket, settings: Settings, access: Access) -> None:
    """Log in one line who can read the metrics, if other machines can."""
    if listening.family == socket.AF_UNIX:
        return
    host, port = listening.getsockname()[:2]
    ip = ipaddress.ip_address(host.partition("%")[0])
    if (getattr(ip, "ipv4_mapped", None) or ip).is_loopback:
        return
    whom = ", ".join(map(str, settings.allow)) or "every network that reaches it"
    web = access.web
    protections = ["WSGI_PROM_TOKEN_FILE"] if settings.token_file else []
    protections += web.protections if web else []
    if protections:
        missing = "" if web and web.tls else "; unencrypted, set tls_server_config in WSGI_PROM_WEB_CONFIG"
        log.info("%s is open to %s, protected by %s%s", ip, whom, " and ".join(protections), missing)
    elif settings.allow:
        log.info("%s is open to %s, by WSGI_PROM_ALLOW, without a password", ip, whom)
    else:
        log.warning(
            "%s is open to %s: every client that connects can read the metrics. Set WSGI_PROM_TOKEN_FILE, or "
            "WSGI_PROM_WEB_CONFIG with TLS and users; or WSGI_PROM_ALLOW; or WSGI_PROM_BIND=127.0.0.1:%d",
            ip,
            whom,
            port,
        )


def _raise_limit() -> int:
    """Raise the number of files that this process may open as far as needed; return how many may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return min(_CONNECTIONS, max(soft - _OTHER_FILES, soft // 2))
    return _CONNECTIONS


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
        found = probe.connect_ex(path)
    if found in {0, errno.EAGAIN}:
        raise OSError(errno.EADDRINUSE, "in use by another process")
    if found not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise OSError(found, os.strerror(found))
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # noqa: PTH108 - of a server that is gone
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Made with its final mode: others cannot connect before a chmod.
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
