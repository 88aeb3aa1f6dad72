"""
Ask the kernel about listening sockets, by netlink: sock_diag(7), netlink(7). No root is needed.

1. Nothing here can hang: every receive has a timeout, and all of a conversation one deadline.
2. An answer that is truncated raises OSError; messages that answer no question of ours are skipped.
3. The kernel answers only about sockets of the caller's network namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# The kernel has answered when the request has been sent. Only a kernel in trouble takes longer.
_CONVERSATION_SECONDS: Final = 0.5

# linux/netlink.h: length, type, flags, sequence number, port. Messages and attributes begin at multiples of 4.
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
_NETLINK_SOCK_DIAG: Final = 4
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_SOCK_DIAG_BY_FAMILY: Final = 20
# The kernel puts no more into one part of an answer (netlink_recvmsg in net/netlink/af_netlink.c).
_PART_BYTES: Final = 32768

_TCP_LISTEN: Final = 10
_NO_COOKIE: Final = 0xFFFFFFFF

# linux/inet_diag.h: family, protocol, extensions, states; ports, addresses, interface and cookie of the socket.
_INET_REQUEST: Final = struct.Struct("=BBBxI HH16s16sIII")
# Family, state, timer, retransmissions; the socket as above; expiry, queue, limit, user, inode.
_INET_ANSWER: Final = struct.Struct("=BBBB HH16s16sIII IIIII")
_INET_DIAG_SKMEMINFO: Final = 7
_SKMEMINFO: Final = struct.Struct("=9I")

# linux/unix_diag.h: family, protocol, padding, states, inode, what to show, cookie.
_UNIX_REQUEST: Final = struct.Struct("=BBHIIIII")
# Family, type, state, inode, cookie.
_UNIX_ANSWER: Final = struct.Struct("=BBBxIII")
_UDIAG_SHOW_RQLEN: Final = 0x10
_UNIX_DIAG_RQLEN: Final = 4
_RQLEN: Final = struct.Struct("=II")


class Listener(NamedTuple):
    """A listening socket, as the kernel describes it. *host* is empty for a unix socket, whose *drops* are not counted."""

    inode: int
    host: str
    length: int
    limit: int
    drops: int | None


def connect() -> socket.socket:
    """Return a socket that is connected to the kernel's sock_diag. Raises OSError where there is none."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        # The kernel refuses other senders on a connected socket.
        kernel.connect((0, 0))
    except OSError:
        kernel.close()
        raise
    return kernel


class Conversation:
    """
    Questions to the kernel over a *kernel* socket of `connect`, all within half a second of when this was made.
    """

    def __init__(self, kernel: socket.socket) -> None:
        self._kernel = kernel
        self._deadline = time.monotonic() + _CONVERSATION_SECONDS
        self._sequence = 0

    def tcp(self, family: int, port: int) -> list[Listener]:
        """Return the TCP sockets of *family* that listen on *port*, on any address. Raises OSError."""
        # The look-up of one socket takes 10 us where this takes 30 (80 where the machine has 1,000 listeners), but picks any of
        # those that share a port. To ask for all listeners takes 900 us where there are 1,000.
        request = _INET_REQUEST.pack(
            family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_SKMEMINFO - 1), 1 << _TCP_LISTEN,
            socket.htons(port), 0, b"", b"", 0, _NO_COOKIE, _NO_COOKIE,
        )  # fmt: skip
        found = []
        for body in self._ask(request, dump=True):
            _, state, _, _, _, _, source, _, _, _, _, _, length, limit, _, inode = _unpack(_INET_ANSWER, body)
            if state != _TCP_LISTEN:
                continue
            memory = _attribute(body, _INET_ANSWER.size, _INET_DIAG_SKMEMINFO)
            # Linux before 4.7 has eight values, without the drops.
            drops = _SKMEMINFO.unpack_from(memory)[8] if len(memory) >= _SKMEMINFO.size else None
            host = socket.inet_ntop(family, source[: 4 if family == socket.AF_INET else 16])
            found.append(Listener(inode, host, length, limit, drops))
        return found

    def unix(self, inode: int) -> list[Listener]:
        """Return the unix socket of *inode* if there is one that listens. Raises OSError."""
        request = _UNIX_REQUEST.pack(
            socket.AF_UNIX, 0, 0, 1 << _TCP_LISTEN, inode, _UDIAG_SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE
        )
        try:
            bodies = self._ask(request, dump=False)
        except FileNotFoundError:
            # No such socket. A kernel without unix_diag answers so too.
            return []
        found = []
        for body in bodies:
            _, _, state, answered, _, _ = _unpack(_UNIX_ANSWER, body)
            lengths = _attribute(body, _UNIX_ANSWER.size, _UNIX_DIAG_RQLEN)
            if state == _TCP_LISTEN and lengths:
                length, limit = _unpack(_RQLEN, lengths)
                found.append(Listener(answered, "", length, limit, None))
        return found

    def _ask(self, request: bytes, *, dump: bool) -> list[bytes]:
        """
        Return the bodies of the answer: of all sockets that match with *dump*, else of the one that was asked for.

        Raises OSError: the kernel's error, or that of a truncated or late answer.
        """
        self._sequence += 1
        flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
        size = _HEADER.size + len(request)
        self._kernel.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, flags, self._sequence, 0) + request)
        bodies: list[bytes] = []
        while True:
            for kind, body in self._part():
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    _raise_error(body)
                    return bodies
                if kind == _SOCK_DIAG_BY_FAMILY:
                    bodies.append(body)
                    if not dump:
                        return bodies

    def _part(self) -> Iterator[tuple[int, bytes]]:
        """Receive one part, and yield type and body of its messages, but for those that answer an earlier question."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel's answer does not end")
        self._kernel.settimeout(left)
        data, _, flags, _ = self._kernel.recvmsg(_PART_BYTES)
        if flags & socket.MSG_TRUNC or not data:
            raise _truncated()
        start = 0
        while start < len(data):
            size, kind, _, sequence, _ = _unpack(_HEADER, data, start)
            if not _HEADER.size <= size <= len(data) - start:
                raise _truncated()
            if sequence == self._sequence:
                yield kind, data[start + _HEADER.size : start + size]
            start += _aligned(size)


def _attribute(body: bytes, start: int, wanted: int) -> bytes:
    """Return the payload of an attribute among those from *start* on, empty if it is not there."""
    while start < len(body):
        size, kind = _unpack(_ATTRIBUTE, body, start)
        if not _ATTRIBUTE.size <= size <= len(body) - start:
            raise _truncated()
        if kind == wanted:
            return body[start + _ATTRIBUTE.size : start + size]
        start += _aligned(size)
    return b""


def _unpack(layout: struct.Struct, data: bytes, start: int = 0) -> tuple[Any, ...]:
    if len(data) - start < layout.size:
        raise _truncated()
    return layout.unpack_from(data, start)


def _raise_error(body: bytes) -> None:
    # 0 or the number of the error, negative; the end of a dump may have one too.
    number = -_unpack(_ERROR, body)[0]
    if number > 0:
        raise OSError(number, os.strerror(number))


def _truncated() -> OSError:
    return OSError(errno.EBADMSG, "the kernel's answer is truncated")


def _aligned(size: int) -> int:
    return (size + 3) & ~3
