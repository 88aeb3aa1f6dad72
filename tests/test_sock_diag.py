"""What is made of the kernel's answers, by a stand-in for the kernel: whole, in parts, of others, truncated, late."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queues import Queue, read

from wsgi_prom.server import sock_diag
from wsgi_prom.server.listen_queues import ListeningSocket

TCP = ListeningSocket("127.0.0.1:8000", 7, socket.AF_INET, 8000, deferred=False)
UNIX = ListeningSocket("unix:/run/app.sock", 8, socket.AF_UNIX, 0, deferred=False)
DONE, ERROR, DIAG = 3, 2, 20


class Kernel:
    """A stand-in for the kernel, with the parts of its answers as they were given here."""

    def __init__(self, *parts: bytes, hang_up: bool = True) -> None:
        self._parts = parts
        self._hang_up = hang_up
        self._end: socket.socket | None = None

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for part in self._parts:
            theirs.send(part)
        if self._hang_up:
            theirs.shutdown(socket.SHUT_WR)
        self._end = theirs
        return ours

    def read(self, *sockets: ListeningSocket) -> dict[str, Queue]:
        try:
            return read(sockets, connect=self.connect)
        finally:
            self.close()

    def close(self) -> None:
        assert self._end is not None
        self._end.close()


def message(kind: int, body: bytes, sequence: int = 1, size: int | None = None) -> bytes:
    whole = 16 + len(body) if size is None else size
    return struct.pack("=IHHII", whole, kind, 2, sequence, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def tcp_listener(inode: int = 7, length: int = 4, drops: tuple[int, ...] = (8,), state: int = 10) -> bytes:
    ports = struct.pack("!HH", 8000, 0)
    source = bytes([127, 0, 0, 1]).ljust(16, b"\0")
    identity = ports + source + bytes(16) + struct.pack("=III", 0, 1, 0)
    numbers = struct.pack("=5I", 0, length, 3, 0, inode)
    memory = struct.pack(f"={8 + len(drops)}I", *range(8), *drops)
    return bytes([2, state, 0, 0]) + identity + numbers + attribute(8, b"\1") + attribute(7, memory)


def unix_listener(inode: int = 8, state: int = 10) -> bytes:
    return bytes([1, 1, state, 0]) + struct.pack("=3I", inode, 1, 0) + attribute(4, struct.pack("=II", 2, 5))


FOUND = message(DIAG, tcp_listener())
END = message(DONE, bytes(4))
# So long that a part can be cut between two of them.
FOUND_256 = message(DIAG, tcp_listener() + attribute(99, bytes(256 - len(FOUND) - 4)))


def test_an_answer_may_come_in_parts() -> None:
    """Messages of other sockets, and control messages, stand between those that are looked for."""
    other, nothing = message(DIAG, tcp_listener(inode=99)), message(1, b"")
    assert {TCP.name: Queue(4, 3, 8)} == Kernel(other + nothing, other + FOUND + other, END).read(TCP)
    assert {TCP.name: Queue(4, 3, 8)} == Kernel(FOUND + END).read(TCP)


def test_messages_of_another_question_are_skipped() -> None:
    """What is left of an earlier answer, its end and its error included, is none of this one's."""
    foreign = [message(kind, tcp_listener(length=99), sequence=5) for kind in (DIAG, DONE, ERROR)]
    assert {TCP.name: Queue(4, 3, 8)} == Kernel(*foreign, b"".join(foreign) + FOUND, *foreign, END).read(TCP)


def test_an_old_kernel_counts_no_drops() -> None:
    """Where the kernel tells eight values of memory, or none, the drops are None."""
    assert {TCP.name: Queue(4, 3, None)} == Kernel(message(DIAG, tcp_listener(drops=())), END).read(TCP)
    bare = tcp_listener()[:72]
    assert {TCP.name: Queue(4, 3, None)} == Kernel(message(DIAG, bare), END).read(TCP)


def test_what_does_not_listen_is_no_queue() -> None:
    """Connections in the answer of a kernel that does not filter by state are left out."""
    assert {} == Kernel(message(DIAG, tcp_listener(state=1)), END).read(TCP)
    assert {} == Kernel(message(DIAG, unix_listener(state=1))).read(UNIX)


@pytest.mark.parametrize(
    "parts",
    [
        (FOUND[:10],),
        (FOUND[:40],),
        (FOUND + END[:-2],),
        (message(DIAG, b"short"), END),
        (message(DIAG, tcp_listener(), size=5000), END),
        (message(DIAG, tcp_listener(), size=0), END),
        (message(DIAG, tcp_listener(), size=15), END),
        (message(DIAG, tcp_listener()[:72] + struct.pack("=HH", 0, 7)), END),
        (message(DIAG, tcp_listener()[:72] + struct.pack("=HH", 40, 7)), END),
        (message(DIAG, tcp_listener()[:75]), END),
        (FOUND, message(DONE, b"")),
        (FOUND,),
        (FOUND * 300, END),
        (FOUND_256 * 129, END),
        (),
    ],
)
def test_a_truncated_answer_is_an_error(parts) -> None:
    """Messages, attributes, parts and ends that are cut short cost the whole answer, and end the question."""
    with pytest.raises(OSError, match="truncated"):
        Kernel(*parts).read(TCP)


@given(
    st.lists(
        st.binary(max_size=200) | st.sampled_from([FOUND, END, FOUND + END, message(ERROR, bytes(4))]),
        max_size=4,
    )
)
def test_any_answer_is_a_queue_or_an_error(parts) -> None:
    """Whatever is received, nothing but OSError is raised."""
    with contextlib.suppress(OSError):
        assert set(Kernel(*filter(None, parts)).read(TCP)) <= {TCP.name}


def test_a_kernel_that_does_not_answer_is_an_error() -> None:
    """The wait for an answer, or for its end, is bounded."""
    for parts in [(), (FOUND,)]:
        with pytest.raises(TimeoutError):
            Kernel(*parts, hang_up=False).read(TCP)


def test_an_answer_without_an_end_is_an_error() -> None:
    """Messages that go on and on are not received for ever."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def answer() -> None:
        # Until the other end is closed.
        with contextlib.suppress(OSError):
            while True:
                theirs.send(FOUND)

    thread = threading.Thread(target=answer)
    with ours, theirs:
        thread.start()
        try:
            with pytest.raises(TimeoutError):
                read([TCP], connect=lambda: ours)
        finally:
            ours.close()
            thread.join()


@pytest.mark.parametrize("kind", [ERROR, DONE])
def test_the_kernels_error_is_raised(kind) -> None:
    """By its number: no such protocol in this kernel, no memory."""
    with pytest.raises(OSError) as caught:
        Kernel(FOUND, message(kind, struct.pack("=i", -errno.ENOMEM))).read(TCP)
    assert errno.ENOMEM == caught.value.errno
    with pytest.raises(FileNotFoundError):
        Kernel(message(ERROR, struct.pack("=i", -errno.ENOENT))).read(TCP)


def test_one_kind_that_the_kernel_refuses_costs_that_alone() -> None:
    """Without tcp_diag the queues of unix sockets are there; where nothing is answered, the first error is raised."""
    refused = [message(ERROR, struct.pack("=i", -errno.ENOENT), sequence) for sequence in (1, 2)]
    unix = message(DIAG, unix_listener(), sequence=2)
    assert {UNIX.name: Queue(2, 5, None)} == Kernel(refused[0], unix).read(TCP, UNIX)
    other = ListeningSocket("127.0.0.1:9000", 9, socket.AF_INET, 9000, deferred=False)
    with pytest.raises(FileNotFoundError):
        Kernel(*refused).read(TCP, other)


def test_a_system_without_sock_diag_is_an_error() -> None:
    """gVisor knows no such protocol: the error is the caller's to tell."""

    def connect() -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    with pytest.raises(OSError) as caught:
        read([TCP], connect=connect)
    assert errno.EPROTONOSUPPORT == caught.value.errno


def test_no_other_process_can_answer() -> None:
    """The kernel refuses what others send to a socket that is connected to it."""
    with (
        sock_diag.connect() as kernel,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, kernel.proto) as other,
        pytest.raises(OSError),
    ):
        other.sendto(END, (kernel.getsockname()[0], 0))


def test_the_netlink_socket_is_closed() -> None:
    """Each read closes what it opened, also after an error."""
    opened = []

    def connect() -> socket.socket:
        opened.append(sock_diag.connect())
        return opened[-1]

    read([TCP, UNIX], connect=connect)
    kernel = Kernel(FOUND[:10])
    with pytest.raises(OSError):
        read([TCP], connect=lambda: opened.append(kernel.connect()) or opened[-1])
    kernel.close()
    assert [-1, -1] == [one.fileno() for one in opened]
