"""Listen queues: as the kernel counts them, on real sockets of this process and of gunicorn, and added up over time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import live
import processes
import pytest
from queues import Queue, read

from wsgi_prom.server.listen_queues import ListeningSocket, listeners
from wsgi_prom.server.queue_metrics import QueueMetrics
from wsgi_prom.server.sock_diag import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ["tcp", "tcp6", "unix", "abstract"]
ABSTRACT = f"\0wsgi_prom-test-{os.getpid()}"


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What a test opens is closed at its end, in this order: clients, and what listens."""
    with contextlib.ExitStack() as opened:
        yield opened


def listen(
    stack: contextlib.ExitStack, kind: str, folder: Path, backlog: int = 3, port: int = 0
) -> socket.socket:
    """Return a socket of *kind* that listens; TCP ones share their address with others that do."""
    if kind in {"unix", "abstract"}:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(folder / "socket") if kind == "unix" else ABSTRACT)
    else:
        family, host = (socket.AF_INET6, "::1") if kind == "tcp6" else (socket.AF_INET, "127.0.0.1")
        listening = stack.enter_context(socket.socket(family))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
    listening.listen(backlog)
    return listening


def connect(
    stack: contextlib.ExitStack, address: object, family: int, count: int = 1, *, sent: bytes = b""
) -> None:
    """Connect *count* times, send what is *sent*, and stay connected for as long as *stack* does."""
    for _ in range(count):
        client = stack.enter_context(socket.socket(family))
        client.settimeout(live.REQUEST_SECONDS)
        client.connect(address)
        client.sendall(sent)


def of(listening: socket.socket) -> ListeningSocket:
    found = ListeningSocket.of(listening.fileno())
    assert found is not None
    return found


def queue_of(listening: socket.socket) -> Queue:
    (queue,) = read([of(listening)]).values()
    return queue


def eventual(sockets: list[ListeningSocket], expected: dict[str, Queue]) -> dict[str, Queue]:
    """Return the queues, after a wait for the handshakes that the kernel may still be at."""
    return live.eventually(lambda: read(sockets), lambda found: found == expected)


def test_a_socket_is_named_as_a_server_binds_it(stack, tmp_path) -> None:
    """A TCP socket's name is its numeric address and port, a unix socket's its path, or @ and its abstract name."""
    tcp, tcp6, unix, abstract = (listen(stack, kind, tmp_path) for kind in KINDS)
    names = [of(listening).name for listening in (tcp, tcp6, unix, abstract)]
    assert [
        f"127.0.0.1:{tcp.getsockname()[1]}",
        f"[::1]:{tcp6.getsockname()[1]}",
        f"unix:{tmp_path}/socket",
        f"unix:@{ABSTRACT[1:]}",
    ] == names


@pytest.mark.parametrize(
    ("address", "name"),
    [(b"/a\xff", "unix:{}/a\\xff"), ("/ü".encode(), "unix:{}/ü"), (b"\0a\0b\xff\0", "unix:@a@b\\xff")],
)
def test_a_name_can_be_written_to_the_page(stack, tmp_path, address, name) -> None:
    """A path is any bytes, and an abstract name may hold zeros; the label is UTF-8 all the same."""
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    folder = b"" if address[:1] == b"\0" else os.fsencode(tmp_path)
    listening.bind(folder + address)
    listening.listen()
    found = of(listening).name
    assert name.format(tmp_path) == found
    assert found.encode()


def test_what_is_no_listening_stream_socket_is_none(stack, tmp_path) -> None:
    """A socket that does not listen, or of another type, a pipe, a file and a closed descriptor are no listening sockets."""
    listening = listen(stack, "tcp", tmp_path)
    bound = stack.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    packets = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    packets.bind(str(tmp_path / "packets"))
    packets.listen()
    pipe = os.pipe()
    file = stack.enter_context((tmp_path / "file").open("w"))
    others = [bound.fileno(), client.fileno(), datagrams.fileno(), packets.fileno(), pipe[0], file.fileno()]
    for end in pipe:
        stack.callback(os.close, end)
    closed = os.dup(0)
    os.close(closed)
    assert [None] * 8 == [ListeningSocket.of(fd) for fd in [*others, closed, -1]]


@pytest.mark.parametrize("default", [None, 5.0])
def test_the_descriptor_stays_as_it_is(stack, tmp_path, default) -> None:
    """A blocking listening socket is one afterwards, still open, also where the application has set a default timeout."""
    listening = listen(stack, "tcp", tmp_path)
    listening.settimeout(None)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(default)
    try:
        of(listening)
    finally:
        socket.setdefaulttimeout(before)
    assert os.get_blocking(listening.fileno())
    connect(stack, listening.getsockname(), listening.family)
    listening.accept()[0].close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_is_the_connections_that_nobody_accepted(stack, tmp_path, kind) -> None:
    """The length follows each connect and accept; the limit is the backlog; a unix socket has no drops."""
    listening = listen(stack, kind, tmp_path, backlog=9)
    name, drops = of(listening).name, None if listening.family == socket.AF_UNIX else 0
    assert {name: Queue(0, 9, drops)} == read([of(listening)])
    for length in range(1, 6):
        connect(stack, listening.getsockname(), listening.family)
        assert {name: Queue(length, 9, drops)} == eventual([of(listening)], {name: Queue(length, 9, drops)})
    for length in reversed(range(5)):
        listening.accept()[0].close()
        assert {name: Queue(length, 9, drops)} == read([of(listening)])


@pytest.mark.parametrize("kind", ["tcp", "tcp6"])
def test_twelve_connections_to_a_backlog_of_three_are_four_waiting_and_eight_drops(
    stack, tmp_path, kind
) -> None:
    """The queue admits one more than the backlog, and each packet of a client beyond that is a drop."""
    listening = listen(stack, kind, tmp_path, backlog=3)
    expected = {of(listening).name: Queue(4, 3, 0)}
    connect(stack, listening.getsockname(), listening.family, 4)
    assert expected == eventual([of(listening)], expected)
    for _ in range(8):
        # Closed before it asks again, which would count again.
        with socket.socket(listening.family) as client:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.connect(listening.getsockname())
    expected = {of(listening).name: Queue(4, 3, 8)}
    assert expected == eventual([of(listening)], expected)


def test_a_client_that_resets_within_the_handshake_is_a_drop(stack, tmp_path) -> None:
    """The kernel counts a TCP check that never completes its connection, as HAProxy's, and no client that connects and resets."""
    listening = listen(stack, "tcp", tmp_path)
    for quick in (1, 0):
        with socket.socket() as client:
            # 0: the last packet of the handshake waits for data, and the reset comes before it.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, quick)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connect(listening.getsockname())
    expected = {of(listening).name: Queue(1, 3, 1)}
    assert expected == eventual([of(listening)], expected)


def test_deferred_connections_are_no_drops(stack, tmp_path) -> None:
    """With TCP_DEFER_ACCEPT the kernel counts each connection as a drop: there drops are None, and the queue is those with data."""
    listening = stack.enter_context(socket.socket())
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
    listening.bind(("127.0.0.1", 0))
    listening.listen(9)
    name = of(listening).name
    connect(stack, listening.getsockname(), listening.family, 2)
    assert {name: Queue(0, 9, None)} == read([of(listening)])
    connect(stack, listening.getsockname(), listening.family, 3, sent=b"GET")
    expected = {name: Queue(3, 9, None)}
    assert expected == eventual([of(listening)], expected)


def test_a_full_unix_queue_has_no_drops(stack, tmp_path) -> None:
    """Clients beyond the queue of a unix socket are told so, and nothing is counted."""
    listening = listen(stack, "unix", tmp_path, backlog=3)
    connect(stack, listening.getsockname(), listening.family, 4)
    for _ in range(8):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect(listening.getsockname())
    assert Queue(4, 3, None) == queue_of(listening)


def test_the_limit_is_the_kernels_where_that_is_lower(stack, tmp_path) -> None:
    """A backlog beyond net.core.somaxconn is cut to it."""
    most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert [most, most] == [
        queue_of(listen(stack, kind, tmp_path, most + 1)).limit for kind in ("tcp", "unix")
    ]


def test_each_of_several_sockets_has_its_own_queue(stack, tmp_path) -> None:
    """All kinds at once, and neighbours that were not asked for."""
    listening = [listen(stack, kind, tmp_path, backlog=5 + at) for at, kind in enumerate(KINDS)]
    for at, one in enumerate(listening):
        connect(stack, one.getsockname(), one.family, at)
    neighbour = listen(stack, "tcp", tmp_path)
    connect(stack, neighbour.getsockname(), neighbour.family, 2)
    other_address = stack.enter_context(socket.create_server(("127.0.0.2", listening[0].getsockname()[1])))
    connect(stack, other_address.getsockname(), other_address.family, 1)
    drops = [0, 0, None, None]
    expected = {of(one).name: Queue(at, 5 + at, drops[at]) for at, one in enumerate(listening)}
    assert expected == eventual([of(one) for one in listening], expected)


@pytest.mark.parametrize("kind", ["tcp", "tcp6"])
def test_sockets_of_one_address_add_up(stack, tmp_path, kind) -> None:
    """With SO_REUSEPORT the kernel spreads connections; the queue of the address is the sum over the sockets asked for."""
    first = listen(stack, kind, tmp_path, backlog=20)
    second = listen(stack, kind, tmp_path, backlog=30, port=first.getsockname()[1])
    connect(stack, first.getsockname(), first.family, 12)
    name = of(first).name
    assert name == of(second).name
    whole = {name: Queue(12, 50, 0)}
    assert whole == eventual([of(first), of(second)], whole)
    # Once each, however often they are given.
    assert whole == read([of(first), of(second), of(first)])
    alone = [queue_of(first), queue_of(second)]
    assert [20, 30] == [queue.limit for queue in alone]
    assert 12 == sum(queue.length for queue in alone)


@pytest.mark.parametrize(("kind", "host"), [("tcp", "127.0.0.1"), ("tcp", "localhost"), ("tcp6", "::1")])
def test_an_address_stands_for_all_its_sockets(stack, tmp_path, kind, host) -> None:
    """Whoever opened them, and for no socket of another address on the same port, or of another port."""
    first = listen(stack, kind, tmp_path, backlog=20)
    listen(stack, kind, tmp_path)
    port = first.getsockname()[1]
    listen(stack, kind, tmp_path, backlog=30, port=port)
    if kind == "tcp":
        stack.enter_context(socket.create_server(("127.0.0.2", port)))
    connect(stack, first.getsockname(), first.family, 5)
    expected = {of(first).name: Queue(5, 50, 0)}
    assert expected == eventual([ListeningSocket.at(host, port)], expected)


@pytest.mark.parametrize(
    ("host", "name"), [("", "0.0.0.0:8000"), ("0.0.0.0", "0.0.0.0:8000"), ("::", "[::]:8000")]
)
def test_an_address_is_named_as_its_socket_would_be(host, name) -> None:
    """An empty host stands for all of IPv4, as gunicorn takes it."""
    assert name == ListeningSocket.at(host, 8000).name


def test_an_unknown_host_is_an_error() -> None:
    """A host that cannot be resolved raises OSError."""
    with pytest.raises(OSError):
        ListeningSocket.at("no such host.invalid", 8000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_socket_is_absent(stack, tmp_path, kind) -> None:
    """Nor is it taken for another that listens on the same address since."""
    listening = listen(stack, kind, tmp_path)
    gone, address = of(listening), listening.getsockname()
    listening.close()
    assert {} == read([gone])
    (tmp_path / "socket").unlink(missing_ok=True)
    again = listen(stack, kind, tmp_path, port=address[1] if kind.startswith("tcp") else 0)
    assert gone.name == of(again).name
    assert {} == read([gone])
    assert {gone.name: queue_of(again)} == read([gone, of(again)])


@pytest.mark.parametrize("kind", ["unix", "abstract"])
def test_a_socket_that_no_longer_listens_is_absent(stack, tmp_path, kind) -> None:
    """An inode that is now a connection's tells no queue."""
    listening = listen(stack, kind, tmp_path)
    connect(stack, listening.getsockname(), listening.family)
    connection, _ = listening.accept()
    stack.enter_context(connection)
    assert {} == read([of(listening)._replace(inode=os.fstat(connection.fileno()).st_ino)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_socket_of_another_network_namespace_is_absent(stack, tmp_path, kind) -> None:
    """A process in another network namespace asks another kernel table."""
    listening = of(listen(stack, kind, tmp_path))
    found = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ELSEWHERE, json.dumps(listening)],
        env=live.environment({}, runtime=tmp_path),
        capture_output=True, text=True, timeout=live.START_SECONDS, check=False,
    )  # fmt: skip
    if found.returncode:
        raise OSError(found.stderr)
    assert "{}\n" == found.stdout
    assert [listening.name] == list(read([listening]))


ELSEWHERE = """
import json, sys
from wsgi_prom.server.listen_queues import ListeningSocket, listeners
print(listeners([ListeningSocket(*json.loads(sys.argv[1]))]))
"""


def test_another_user_may_ask(stack, tmp_path) -> None:
    """The exporter runs as the workers' user where the master is root."""
    sockets = [of(listen(stack, kind, tmp_path)) for kind in KINDS]

    def ask() -> list[str]:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return list(read(sockets))

    assert {wanted.name for wanted in sockets} == set(processes.in_child(ask))


def test_nothing_is_asked_for_no_socket() -> None:
    """Without sockets no netlink socket is opened."""

    def never() -> socket.socket:
        raise AssertionError

    assert {} == read([], connect=never)


def socket_called(name: str) -> ListeningSocket:
    return ListeningSocket(name, 7, socket.AF_INET, 8000, deferred=False)


class Looks:
    """QueueMetrics of sockets `a` and `b` with a clock of its own, and the lengths that it is told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lengths: dict[str, int] | OSError = {}
        self.metrics = QueueMetrics(
            (socket_called("a"), socket_called("b")), self._read, clock=lambda: self.now
        )

    def _read(self, _: object) -> dict[str, list[Listener]]:
        if isinstance(self.lengths, OSError):
            raise self.lengths
        return {name: [Listener(7, "", length, 3, None)] for name, length in self.lengths.items()}

    def after(self, seconds: float, lengths: dict[str, int] | OSError) -> None:
        """Take the look that *seconds* later finds *lengths*."""
        self.now += seconds
        self.lengths = lengths
        with contextlib.suppress(OSError):
            self.metrics.look()

    @property
    def seconds(self) -> dict[str, float]:
        self.lengths = {"a": 0, "b": 0}
        return waited(self.metrics)


def waited(metrics: QueueMetrics) -> dict[str, float]:
    (family,) = (found for found in metrics.families() if found.name == "wsgi_listen_queue_seconds")
    return {sample.labels["socket"]: sample.value for sample in family.samples}


def test_seconds_are_length_times_the_time_between_looks() -> None:
    """Two connections that wait for 2 s each are 4 s; each socket has its own; a queue that is empty adds 0."""
    looks = Looks()
    looks.after(0, {"a": 0, "b": 0})
    for _ in range(8):
        looks.after(0.25, {"a": 2, "b": 1})
    for _ in range(8):
        looks.after(0.25, {"a": 0, "b": 1})
    assert {"a": 4.0, "b": 4.0} == looks.seconds


def test_the_first_look_adds_nothing() -> None:
    """Nobody knows how long connections have waited before it; the series is there, at 0."""
    looks = Looks()
    looks.after(0, {"a": 7})
    assert {"a": 0.0, "b": 0.0} == looks.seconds


def test_an_error_costs_one_look() -> None:
    """The time before a look that failed is not counted; the next one counts the time since."""
    looks = Looks()
    looks.after(0, {"a": 2})
    looks.after(0.5, OSError("no kernel"))
    looks.after(0.5, {"a": 2})
    assert {"a": 1.0, "b": 0.0} == looks.seconds


def test_a_long_pause_is_not_counted() -> None:
    """After the process was stopped for an hour, the hour is not made up."""
    looks = Looks()
    for seconds in (0, 0.5, 3600, 0.5):
        looks.after(seconds, {"a": 2})
    assert {"a": 2.0, "b": 0.0} == looks.seconds


def test_a_socket_that_goes_and_comes_is_counted_while_it_is_there() -> None:
    """A reload may close a socket and open another."""
    looks = Looks()
    looks.after(0, {"a": 1})
    looks.after(0.5, {"b": 1})
    looks.after(0.5, {"a": 1, "b": 1})
    assert {"a": 0.5, "b": 1.0} == looks.seconds


def test_a_thread_looks_until_its_end(stack, tmp_path) -> None:
    """The thread adds seconds of a real queue, goes on after an error, and ends when it is told to."""
    listening = of(listen(stack, "tcp", tmp_path))
    connect(stack, ("127.0.0.1", listening.port), socket.AF_INET, 2)
    failures = [OSError("no kernel")]

    def read_later(sockets: object) -> dict[str, list[Listener]]:
        if failures:
            raise failures.pop()
        return listeners(sockets)

    metrics = QueueMetrics((listening,), read_later)
    end = threading.Event()
    thread = threading.Thread(target=metrics.sample, args=(end,))
    thread.start()
    try:
        live.eventually(lambda: failures, lambda found: not found)
        found = live.eventually(lambda: waited(metrics), lambda found: any(found.values()))
    finally:
        end.set()
        thread.join()
    assert {listening.name} == found.keys()
    assert found[listening.name] > 0


# Each process writes the sockets that it has: the arbiter before the workers, which open their own with reuse_port.
CONFIGURATION = """
import json, os
from pathlib import Path
from wsgi_prom.server.listen_queues import ListeningSocket

def write(name, sockets):
    path = Path(os.environ["SOCKETS"]) / name
    path.with_suffix(".new").write_text(json.dumps([ListeningSocket.of(one.fileno()) for one in sockets]))
    path.with_suffix(".new").rename(path)

def when_ready(server):
    write("arbiter", server.LISTENERS)

def post_worker_init(worker):
    write(f"worker-{worker.age}", worker.sockets)
"""

# As systemd passes sockets on: open as descriptors 3 and 4, with the pid of the process that is started. gunicorn 27.0.1 gets an
# abstract name only so: one that it has bound itself it fails to unlink at its end, and leaves its workers behind.
ACTIVATE = """
import os, socket, sys
tcp = socket.create_server(("127.0.0.1", 0), backlog=6)
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0" + sys.argv[1])
abstract.listen(7)
for fd, listening in [(13, tcp), (14, abstract)]:
    os.dup2(listening.fileno(), fd)
for fd in (3, 4):
    os.dup2(fd + 10, fd)
os.closerange(5, 20)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_gunicorn(
    stack: contextlib.ExitStack, folder: Path, *options: str, launcher: tuple[str, ...] = ()
) -> None:
    """Start a gunicorn of two workers that write their sockets into *folder* and then accept no connection."""
    configuration = folder / "configuration.py"
    configuration.write_text(CONFIGURATION)
    options = ("--timeout", "1000", "--backlog", "20", *options)
    server = live.gunicorn("plain:app", *options, workers=2, config=str(configuration), SOCKETS=str(folder))
    server.command[:0] = launcher
    stack.enter_context(server)
    assert 2 == live.eventually(lambda: len(list(folder.glob("worker-?"))), lambda count: count == 2)
    stop_workers(stack, server)


def stop_workers(stack: contextlib.ExitStack, server: live.LiveServer) -> None:
    for worker in server.workers():
        server.signal_child(worker, signal.SIGSTOP)
        # A stopped worker would let its master wait for its end.
        stack.callback(server.signal_child, worker, signal.SIGCONT)


def written(path: Path) -> list[ListeningSocket]:
    return [ListeningSocket(*values) for values in json.loads(path.read_text())]


def address_of(wanted: ListeningSocket) -> object:
    if wanted.family == socket.AF_UNIX:
        return wanted.name.removeprefix("unix:")
    return wanted.name.rpartition(":")[0].strip("[]"), wanted.port


def test_gunicorns_sockets_of_each_kind(stack, tmp_path) -> None:
    """Two TCP binds, IPv6 and a unix path: each with the connections that wait while all workers are busy."""
    binds = ("127.0.0.2:0", "[::1]:0", f"unix:{tmp_path}/app.sock")
    start_gunicorn(stack, tmp_path, *(f"--bind={bind}" for bind in binds))
    sockets = written(tmp_path / "arbiter")
    assert ["127.0.0.1", "127.0.0.2", "[::1]"] == [wanted.name.rpartition(":")[0] for wanted in sockets[:3]]
    assert [f"unix:{tmp_path}/app.sock"] == [wanted.name for wanted in sockets[3:]]
    expected = {}
    for waiting, wanted in enumerate(sockets, start=4):
        connect(stack, address_of(wanted), wanted.family, waiting)
        expected[wanted.name] = Queue(waiting, 20, None if wanted.family == socket.AF_UNIX else 0)
    assert expected == eventual(sockets, expected)
    # A worker has the very sockets of its arbiter.
    assert sockets == written(tmp_path / "worker-1")


def test_sockets_that_systemd_passed_to_gunicorn(stack, tmp_path) -> None:
    """The queues of inherited sockets are there, with the backlog of whoever opened them."""
    start_gunicorn(stack, tmp_path, launcher=(sys.executable, "-c", ACTIVATE, ABSTRACT[1:]))
    tcp, abstract = written(tmp_path / "arbiter")
    connect(stack, address_of(tcp), tcp.family, 5)
    connect(stack, ABSTRACT, abstract.family, 2)
    expected = {tcp.name: Queue(5, 6, 0), f"unix:@{ABSTRACT[1:]}": Queue(2, 7, None)}
    assert expected == eventual([tcp, abstract], expected)


def test_gunicorns_workers_that_share_a_port(stack, tmp_path) -> None:
    """With --reuse-port the arbiter has no socket and each worker its own: their queues add up, by socket or by address."""
    port = stack.enter_context(live.hold_port()).getsockname()[1]
    start_gunicorn(stack, tmp_path, "--reuse-port", f"--bind=127.0.0.1:{port}")
    assert [] == written(tmp_path / "arbiter")
    workers = [written(tmp_path / f"worker-{age}")[-1] for age in (1, 2)]
    assert {f"127.0.0.1:{port}"} == {wanted.name for wanted in workers}
    connect(stack, ("127.0.0.1", port), socket.AF_INET, 9)
    expected = {f"127.0.0.1:{port}": Queue(9, 40, 0)}
    assert expected == eventual(workers, expected)
    assert expected == read([ListeningSocket.at("127.0.0.1", port)])


UWSGI_HOOK = """
import json, uwsgi
from pathlib import Path
from wsgi_prom.server.listen_queues import ListeningSocket
Path(__file__).with_name("master").write_text(json.dumps([ListeningSocket.of(fd) for fd in uwsgi.sockets]))
"""


@pytest.mark.parametrize(("options", "drops"), [([], None), (["--no-defer-accept"], 0)])
def test_uwsgis_sockets(stack, tmp_path, options, drops) -> None:
    """HTTP, TCP, a unix path and an abstract name, known in the master before it forks; drops only where they are counted."""
    (tmp_path / "queue_hook.py").write_text(UWSGI_HOOK)
    for bind in ("127.0.0.1:0", f"{tmp_path}/app.sock", f"@{ABSTRACT[1:]}"):
        options = [*options, "--socket", bind]
    options = [*options, "--pythonpath", str(tmp_path), "--listen", "20"]
    # uWSGI binds a port that the system is to choose while it reads its options, before --no-defer-accept.
    port = stack.enter_context(live.hold_port()).getsockname()[1]
    server = stack.enter_context(
        live.uwsgi(*options, app=None, module="plain:app", hook="queue_hook", workers=2, port=port)
    )
    stop_workers(stack, server)
    sockets = written(tmp_path / "master")
    assert ["127.0.0.1"] * 2 == [wanted.name.rpartition(":")[0] for wanted in sockets[:2]]
    assert [f"unix:{tmp_path}/app.sock", f"unix:@{ABSTRACT[1:]}"] == [wanted.name for wanted in sockets[2:]]
    # uWSGI counts the zero after an abstract name to it.
    addresses = [*map(address_of, sockets[:3]), f"{ABSTRACT}\0"]
    expected = {}
    for waiting, (wanted, address) in enumerate(zip(sockets, addresses, strict=True), start=4):
        connect(stack, address, wanted.family, waiting, sent=b"GET / HTTP/1.0\r\n\r\n")
        expected[wanted.name] = Queue(waiting, 20, None if wanted.family == socket.AF_UNIX else drops)
    assert expected == eventual(sockets, expected)
