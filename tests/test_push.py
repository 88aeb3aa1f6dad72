"""`wsgi-prom push`: its readings, its loop with receivers that fail or hang, its end, and what it says of wrong options."""

from __future__ import annotations

import itertools
import logging
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import joined
import live
import pushed
import pytest
import servers
from exporters import fill
from prometheus_client import Counter, Histogram, Info
from samples import parse_samples
from servers import remove

from wsgi_prom.cli import main
from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.exposition import render
from wsgi_prom.exporter.target import Target
from wsgi_prom.merge.collector import Collector
from wsgi_prom.push.pushing import push
from wsgi_prom.push.reader import Reader
from wsgi_prom.push.sender import PushError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.push.reading import Reading


class FakeReceiver:
    """
    Keeps what it is sent, after it has called *before* with the number of the reading, from 1 on. Of readings without metrics it
    keeps the number of the reading before each.
    """

    def __init__(self, name: str, before: Callable[[int], object] = lambda _: None) -> None:
        self.name = name
        self.where = f"--{name}"
        self.calls = 0
        self.readings: list[Reading] = []
        self.ended_after: list[int] = []
        self._before = before

    def lost(self, reading: Reading) -> int:
        return reading.size

    def send(self, reading: Reading, _ended: threading.Event) -> None:
        if not reading.metrics:
            self.ended_after.append(len(self.readings))
            return
        self.calls += 1
        self._before(self.calls)
        self.readings.append(reading)


def times(number: int, between: Callable[[], object] = lambda: None) -> Callable[[float], bool]:
    """Return what ends a loop after *number* readings, and calls *between* after each."""
    left = itertools.count(number, -1)

    def wait(_: float) -> bool:
        remaining = next(left)
        if remaining < number:
            between()
        return remaining == 1

    return wait


def counted(reading: Reading, to: str) -> dict[str, float]:
    """Return what *reading* says of the receiver *to*: by result, and the lost samples."""
    return {
        dict(labels).get("result", "lost"): value
        for name, labels, value in reading.series
        if name.startswith("wsgi_prom_push_") and dict(labels)["to"] == to
    }


def test_a_reading_is_what_a_page_shows(recording: Any, shared: Path) -> None:
    """Each sample of a page of the directory is in a reading, with the same name, labels and value, and the time of its start."""

    def run() -> tuple[dict[Any, float], dict[Any, float], list[float]]:
        Counter("hits", "H", ["page"], registry=None).labels("/é\ud800").inc(3)
        Histogram("wait_seconds", "W", registry=None, buckets=(0.1, 2.0)).observe(1)
        Info("build", "B", registry=None).info({"a.b": "c"})
        Counter("dotted.name", "D", registry=None).inc()
        page = parse_samples(render(Collector(shared).collect()))
        found = Reader(shared, Target()).read()
        series = {(name, frozenset(labels)): value for name, labels, value in found.series}
        hits = [child.start for metric in found.metrics if metric.name == "hits" for child in metric.children]
        return page, {key: value for key, value in series.items() if not key[0].startswith("wsgi")}, hits

    page, series, (start,) = recording(run)
    assert page == series
    assert start > 1e9


def test_a_receiver_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Readings go to the other receiver; of those for the one that hangs the newest is kept, and the others are counted as failed."""
    fill(tmp_path / "shared", 1)
    held, hangs = threading.Event(), threading.Event()
    other = FakeReceiver("other")

    def hang(number: int) -> None:
        hangs.set()
        assert held.wait(live.START_SECONDS)

    hanging = FakeReceiver("hanging", hang)
    done: list[int] = []

    def between() -> None:
        hangs.wait(live.START_SECONDS)
        done.append(1)
        live.eventually(lambda: len(other.readings), lambda found: found == len(done))
        if len(done) == 4:
            held.set()

    push(Reader(tmp_path / "shared", Target()), [hanging, other], 1.0, times(5, between))
    last = other.readings[-1]
    assert 5 == len(other.readings)
    assert {"sent": 0.0, "failed": 2.0}.items() <= counted(last, "hanging").items()
    assert {"sent": 4.0, "failed": 0.0, "lost": 0.0} == counted(last, "other")
    assert hanging.readings[-1] is last


def test_a_failure_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that fails for a while is logged once, and once when it works again, with what was lost; a bug of ours ends nothing."""
    fill(tmp_path / "shared", 1)

    def fail(number: int) -> None:
        if number in {2, 3}:
            raise PushError(f"--failing is away for the {number}. time", lost=5)
        if number == 4:
            raise ZeroDivisionError

    failing = FakeReceiver("failing", fail)
    numbers = itertools.count(1)
    caplog.set_level(logging.WARNING, "wsgi_prom")

    def between() -> None:
        expected = next(numbers)
        live.eventually(lambda: failing.calls, lambda found: found == expected)

    assert push(Reader(tmp_path / "shared", Target()), [failing], 1.0, times(6, between))
    assert [
        "--failing is away for the 2. time. It is tried again with each reading",
        f"--failing works again; 3 readings were not sent, {10 + failing.readings[0].size} samples",
    ] == [record.getMessage() for record in caplog.records]


def test_a_directory_that_goes_and_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Without a directory nothing is sent, which is logged once, and all series end; the counts of the next one are its own. At the end
    of the loop they end too.
    """
    shared = tmp_path / "shared"
    receiver = FakeReceiver("receiver")
    steps = enumerate(
        [lambda: None, lambda: fill(shared, 1), lambda: remove(shared), lambda: fill(shared, 2)]
    )

    def step() -> None:
        number, change = next(steps)
        # A reading that comes before the last one is sent takes its place.
        live.eventually(lambda: receiver.calls + len(receiver.ended_after), lambda found: found == number + 1)
        change()

    caplog.set_level(logging.WARNING, "wsgi_prom")
    push(Reader(shared, Target()), [receiver], 1.0, times(5, step))
    told = f"{shared} does not exist; nothing is sent until a server uses it and it can be read"
    again = f"{shared} can be read again"
    assert [told, again, told, again] == [record.getMessage() for record in caplog.records]
    assert [1.0, 2.0] == [
        sum(value for name, _, value in reading.series if name == "filled_total")
        for reading in receiver.readings
    ]
    assert [0, 0, 1, 2] == receiver.ended_after


def test_nothing_to_send_says_nothing_of_a_receiver(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that was away is not said to work before it has taken a reading, and there is none while there is no directory."""
    shared = tmp_path / "shared"
    fill(shared, 1)
    calls: list[int] = []
    meanwhile: list[str] = []

    def fail(number: int) -> None:
        if number == 1:
            raise PushError("--failing is away")

    failing = FakeReceiver("failing", fail)

    def step() -> None:
        calls.append(1)
        expected = len(calls)
        live.eventually(lambda: failing.calls + len(failing.ended_after), lambda found: found == expected)
        if expected == 1:
            remove(shared)
        if expected == 3:
            meanwhile.extend(line for line in caplog.messages if "works again" in line)
            fill(shared, 1)

    caplog.set_level(logging.WARNING, "wsgi_prom")
    push(Reader(shared, Target()), [failing], 1.0, times(4, step))
    told = [line for line in caplog.messages if line.startswith("--failing")]
    (reading,) = failing.readings
    found = counted(reading, "failing")
    assert ([0, 0, 1], 0.0, 1.0, []) == (failing.ended_after, found["sent"], found["failed"], meanwhile)
    assert ["--failing is away. It is tried again with each reading", "--failing works again"] == [
        line.partition(";")[0] for line in told
    ]


def orders(reading: Reading) -> float:
    return sum(value for name, _, value in reading.series if name == "work_seconds_count")


def test_a_server_that_ends_in_a_directory_that_stays(tmp_path: Path) -> None:
    """
    A server's directory may stay: after its end there is one more reading, with all that it has counted, and none then. Those of a
    server that begins in the same directory have its own counts alone, however short the time between the two was.
    """
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    reader = Reader(shared, Target())
    found = []

    def serve(requests: int) -> live.LiveServer:
        server = servers.start(
            "gunicorn sync", app="worked:app", workers=1, PROMETHEUS_MULTIPROC_DIR=str(shared)
        )
        with server:
            live.drive(server.url, ["/"] * requests)
            found.append(orders(reader.read()))
            live.drive(server.url, ["/"])
        return server

    serve(3)
    serve(1)
    found.append(orders(reader.read()))
    with pytest.raises(DirectoryError, match=f"the server of {shared} has ended"):
        reader.read()
    with pytest.raises(DirectoryError, match="has ended"):
        Reader(shared, Target()).read()
    serve(5)
    assert [3, 1, 2, 5] == found


def test_a_directory_of_a_name_that_is_made_again() -> None:
    """The next directory of a name has its own counts alone, though there was no reading between the two."""
    name, path = joined.new_name()
    reader = Reader(path, Target())
    found = []
    for jobs in (3, 1):
        with joined.joined("wsgi_prom.join()", WSGI_PROM_NAME=name) as process:
            process.tell(f"DONE.inc({jobs})")
            series = reader.read().series
            found.append(sum(value for metric, _, value in series if metric == "jobs_done_total"))
            process.end()
        assert joined.gone(path)
    assert [3, 1] == found


def test_what_ended_processes_have_counted_is_sent_where_there_is_no_server(
    recording: Any, shared: Path
) -> None:
    """A process that joined and has ended, such as a cron job, has its counts in each reading."""
    recording(lambda: Counter("jobs", "J", registry=None).inc(2))
    reader = Reader(shared, Target())
    found = [[value for name, _, value in reader.read().series if name == "jobs_total"] for _ in range(3)]
    assert [[2.0]] * 3 == found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "",
            "push has nowhere to send to. Give --statsd HOST:PORT, --remote-write URL, --pushgateway URL or --otlp URL.",
        ),
        (
            "--statsd nowhere",
            "--statsd='nowhere' is not an address. Give HOST:PORT, [IPV6]:PORT or unix:/PATH.",
        ),
        ("--statsd localhost:1 --interval soon", "--interval='soon' is not a number of seconds, 1 to 3600."),
        (
            "--statsd localhost:1 --datagram-bytes 0",
            "--datagram-bytes=0 is not a number of bytes. Give 1 to 65507.",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    options: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that cannot be used is named with its value and what to give, before anything is sent."""
    status = main(["push", "--directory", str(tmp_path), *options.split()])
    assert (1, f"wsgi_prom: {expected}\n") == (status, capsys.readouterr().err)


def test_a_receiver_that_is_not_there_is_told_by_once(tmp_path: Path) -> None:
    """`--once` sends one reading, and ends with 1 and a line if it could not."""
    fill(tmp_path / "shared", 1)
    result = pushed.once(tmp_path / "shared", "--statsd", f"unix:{tmp_path}/none")
    (problem,) = [line for line in result.stderr.splitlines() if "WARNING" in line]
    assert f"--statsd='unix:{tmp_path}/none' gets nothing (No such file or directory)" in problem
    assert 1 == result.returncode


def test_ctrl_c_ends_once_at_once(tmp_path: Path) -> None:
    """`--once` that waits for a receiver which does not answer is ended by Ctrl-C, as any command."""
    fill(tmp_path / "shared", 1)
    with socket.create_server(("127.0.0.1", 0)) as receiver:
        url = "http://{}:{}/".format(*receiver.getsockname())
        # A job in the background of a shell ignores SIGINT, and so does what it starts.
        command = [
            "env",
            "--default-signal=INT",
            *pushed.command(tmp_path / "shared", "--once", "--remote-write", url),
        ]
        environ = live.environment({}, runtime=live.ROOT)
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
            receiver.settimeout(60)
            connection, _ = receiver.accept()
            with connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                _, told = process.communicate(timeout=60)
    assert 130 == process.returncode
    assert "Traceback" not in told
