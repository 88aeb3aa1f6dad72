"""
The listen queues of the server: how many connections wait to be accepted, how many may, and how many were dropped.

The kernel tells them (sock_diag.py). The servers' own figures are no substitute: for a unix socket uWSGI reports 0 and
gunicorn -1, and neither counts drops.

1. A TCP queue holds complete connections. Those in the middle of their handshake, or of which TCP_DEFER_ACCEPT awaits
   data, are not in it; nor are those that a threaded or asynchronous worker has accepted before it has time for them.
2. A queue admits one connection more than its limit: 4 for a backlog of 3. Then TCP drops the client's packets and counts
   each, repeated ones too. On a unix socket the client waits or fails with EAGAIN, and nothing is counted.
3. The kernel counts as drops, too, a client that resets within the handshake (a TCP check of HAProxy, a port scan), and with
   TCP_DEFER_ACCEPT every connection, by the acknowledgement without data that it ignores. uWSGI sets that option unless it
   has `no-defer-accept`. Such a socket's drops are None.
4. Where the kernel does not answer, `listeners` raises OSError: gVisor has no sock_diag (EPROTONOSUPPORT), systemd's
   RestrictAddressFamilies= may lack AF_NETLINK (EAFNOSUPPORT), a seccomp filter may forbid it (EPERM).
"""

from __future__ import annotations

import _socket
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from wsgi_prom.server import sock_diag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.server.sock_diag import Listener


class ListeningSocket(NamedTuple):
    """
    A listening stream socket, TCP or unix. Plain values, so that another process can be given them.
    """

    # The label `socket`: "127.0.0.1:8000", "[::1]:8000", "unix:/run/app.sock", "unix:@abstract".
    name: str
    # None stands for every TCP socket that listens on the address.
    inode: int | None
    family: int
    # 0 for a unix socket.
    port: int
    # Whether TCP_DEFER_ACCEPT is set.
    deferred: bool

    @classmethod
    def of(cls, fd: int) -> ListeningSocket | None:
        """
        Return the socket that is open as *fd*, None if that is no listening stream socket, TCP or unix.

        The descriptor stays as it is, open, and blocking or not.
        """
        try:
            # Not socket.socket, which gevent replaces by a class that makes the descriptor non-blocking. SOCK_NONBLOCK keeps
            # this one from doing so where the application has called socket.setdefaulttimeout.
            opened = _socket.socket(-1, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, fd)
        except (OSError, ValueError):  # ValueError for -1, the number of a closed socket
            return None
        try:
            if (
                opened.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
                or opened.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM
                or not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ):
                return None
            inode, family, address = os.fstat(fd).st_ino, int(opened.family), opened.getsockname()
            if family == socket.AF_UNIX:
                return cls(_unix_name(address), inode, family, 0, deferred=False)
            deferred = bool(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT))
            return cls(_tcp_name(address[0], address[1]), inode, family, address[1], deferred)
        finally:
            opened.detach()

    @classmethod
    def at(cls, host: str, port: int) -> ListeningSocket:
        """
        Return what stands for all sockets that listen on *host* and *port*, whichever process opened them.

        For gunicorn's `reuse_port`, where each worker opens a socket of its own and the arbiter has none. Another server
        that shares the address is included. Raises OSError if *host* cannot be resolved.
        """
        # gunicorn resolves a name to IPv4 alone.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host or None, port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        return cls(_tcp_name(str(found[0][4][0]), port), None, int(family), port, deferred=False)


def listeners(
    sockets: Iterable[ListeningSocket], *, connect: Callable[[], socket.socket] = sock_diag.connect
) -> dict[str, list[Listener]]:
    """
    Return what the kernel tells of each of *sockets* by name, of which several may share one (SO_REUSEPORT).

    A socket that is closed, or of another network namespace, is absent. Raises OSError if the kernel answers for none of
    them. Where it answers for some kinds alone (it may lack tcp_diag), the others are absent; to ask for one of those alone
    raises. Takes half a second at most. *connect* returns the socket to ask on.

    Costs 90 us of CPU for a TCP socket and 60 us for a unix socket, with 5 and with 1,000 other sockets on the machine alike
    (110 and 75 us where all of these listen, and are of its kind), measured by time.process_time in a loop on Linux 6.18. A
    thread that wakes for one call meets cold caches: 0.54 ms with 5 others, 0.64 ms with 1,000.
    """
    questions: dict[tuple[int, int], set[ListeningSocket]] = {}
    for wanted in sockets:
        number = (wanted.inode or 0) if wanted.family == socket.AF_UNIX else wanted.port
        questions.setdefault((wanted.family, number), set()).add(wanted)
    if not questions:
        return {}
    queues: dict[str, list[Listener]] = {}
    failures: list[OSError] = []
    with connect() as kernel:
        conversation = sock_diag.Conversation(kernel)
        for (family, number), group in questions.items():
            try:
                if family == socket.AF_UNIX:
                    answered = conversation.unix(number)
                else:
                    answered = conversation.tcp(family, number)
            except OSError as error:
                failures.append(error)
                continue
            for wanted in group:
                of_it = _listeners_of(wanted, answered)
                if of_it:
                    queues.setdefault(wanted.name, []).extend(of_it)
    if len(failures) == len(questions):
        raise failures[0]
    return queues


def _listeners_of(wanted: ListeningSocket, candidates: list[Listener]) -> list[Listener]:
    if wanted.inode is None:
        candidates = [
            listener for listener in candidates if _tcp_name(listener.host, wanted.port) == wanted.name
        ]
    else:
        candidates = [listener for listener in candidates if listener.inode == wanted.inode]
    return [listener._replace(drops=None) for listener in candidates] if wanted.deferred else candidates


def _tcp_name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _unix_name(address: str | bytes) -> str:
    # Python returns bytes for an abstract name, which may hold zeros: uWSGI's end in one. A label must be UTF-8, a path need
    # not be.
    path = address.rstrip(b"\0").replace(b"\0", b"@") if isinstance(address, bytes) else os.fsencode(address)
    return "unix:" + path.decode("utf-8", "backslashreplace")
