"""statsd: the lines, what a real statsd adds up of them, and an agent that goes and comes back."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import documents
import live
import pushed
import pytest
from datadog.dogstatsd import DogStatsd

from wsgi_prom.push.sender import PushError
from wsgi_prom.push.statsd import Deltas, Line, Statsd, packed
from wsgi_prom.push.statsd_lines import TAGS, Lines, number
from wsgi_prom.setting_values import Address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wsgi_prom.push.reading import Reading

BEGAN = 100.0
STATSD = live.ROOT / ".venv" / "npm" / "node_modules" / "statsd" / "stats.js"
# Adds up what a statsd has flushed, and prints it each time.
BACKEND = """
const total = {counters: {}, timers: {}, gauges: {}};
exports.init = (started, config, events) => {
  events.on("flush", (time, metrics) => {
    for (const [name, value] of Object.entries(metrics.counters)) total.counters[name] = (total.counters[name] || 0) + value;
    for (const [name, values] of Object.entries(metrics.timers)) {
      if (values.length) {
        const known = total.timers[name] || {count: 0, highest: 0};
        known.count += metrics.timer_counters[name];
        known.highest = Math.max(known.highest, ...values);
        total.timers[name] = known;
      }
    }
    total.gauges = metrics.gauges;
    console.log("TOTAL " + JSON.stringify(total));
  });
  return true;
};
"""


def sent(deltas: Deltas, reading: Reading) -> list[str]:
    """Return the lines of *reading*, all of which are sent."""
    lines = list(deltas.of(reading))
    deltas.sent(lines)
    return [line.text for line in lines]


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.settimeout(live.START_SECONDS)
        yield found


def test_lines_are_those_of_the_datadog_library(receiver: socket.socket) -> None:
    """A count, a gauge below 0 and a timer at a sample rate are the lines that DataDog's own client sends for the same calls."""
    client = DogStatsd(
        "127.0.0.1", receiver.getsockname()[1], disable_telemetry=True, origin_detection_enabled=False
    )
    tags = ["method:GET", "route:/users/<id>"]
    labels = (("method", "GET"), ("route", "/users/<id>"))
    client.increment("hits_total", 3, tags=tags)
    client.increment("sent_total", 0.5)
    client.gauge("left", -5, tags=tags)
    for _ in range(64):  # each is sent or not, by chance
        client.timing("wait", 25, tags=["a:b"], sample_rate=0.5)
    lines = Lines("dogstatsd")
    expected = [receiver.recv(1000).decode() for _ in range(4)]
    client.stop()
    assert expected == [
        lines.counter("hits_total", labels, 3.0) + "\n",
        lines.counter("sent_total", (), 0.5) + "\n",
        lines.gauge("left", labels, -5.0) + "\n",
        lines.timer("wait", (("a", "b"),), 25.0, 2.0) + "\n",
    ]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("dogstatsd", ["hits:1|c|#a:x_y:z_1__,b:/u.v", "left:-2|g|#a:1"]),
        ("influxdb", ["hits,a=x_y_z_1__,b=/u.v:1|c", "left,a=1:0|g\nleft,a=1:-2|g"]),
        ("none", ["hits.x_y_z_1__._u_v._:1|c", "left.1:0|g\nleft.1:-2|g"]),
    ],
)
def test_labels(tags: str, expected: list[str]) -> None:
    """No value of a label ends its line or its tag; an empty one is no tag; where a sign means a change, 0 comes first."""
    lines = Lines(tags)
    labels = (("a", "x,y:z=1|\n"), ("b", "/u.v"), ("c", ""))
    assert expected == [lines.counter("hits", labels, 1.0), lines.gauge("left", (("a", "1"),), -2.0)]


@pytest.mark.parametrize(
    ("value", "expected"), [(3.0, "3"), (0.1, "0.1"), (1e-7, "0.0000001"), (1e22, "10000000000000000000000")]
)
def test_numbers_have_no_exponent(value: float, expected: str) -> None:
    """A number is decimal digits, as few as mean it."""
    assert expected == number(value)


def test_counts_are_sent_once() -> None:
    """
    The first reading is the base but for what began after this process; later ones are what was added. What began anew, with a later
    start time, is all new; an unknown start is a base, and so is a lower count.
    """
    deltas = Deltas(Lines("none"), BEGAN)
    readings = [
        (pushed.counter("old", (), 5, 99), pushed.counter("new", (), 2, 101)),
        (
            pushed.counter("old", (), 7, 99),
            pushed.counter("new", (), 2, 101),
            pushed.counter("later", (), 1, 102),
        ),
        (
            pushed.counter("old", (), 3, 99),
            pushed.counter("new", (), 9, 150),
            pushed.counter("unknown", (), 4),
        ),
        (pushed.counter("unknown", (), 6, 98), pushed.counter("old", (), 4, 99)),
        (pushed.counter("old", (), 8, 100), pushed.counter("unknown", (), 7, 98)),
    ]
    assert [
        ["new_total:2|c"],
        ["old_total:2|c", "later_total:1|c"],
        ["new_total:9|c"],
        ["unknown_total:2|c", "old_total:1|c"],
        ["old_total:8|c", "unknown_total:1|c"],
    ] == [sent(deltas, pushed.reading(*found)) for found in readings]


def test_a_histogram_is_timers_at_its_bounds() -> None:
    """
    Each bucket that grew is a timer at its upper bound, in milliseconds, of as many observations; the last one's at its lower bound.
    With other bounds, after a reload, nothing is counted twice.
    """
    deltas = Deltas(Lines("none"), BEGAN)
    readings = [
        pushed.histogram("wait_seconds", (), {"0.5": 0, "2.0": 0, "+Inf": 0}, 0.0, 99),
        pushed.histogram("wait_seconds", (), {"0.5": 1, "2.0": 4, "+Inf": 6}, 20.5, 99),
        pushed.histogram("wait_seconds", (), {"0.5": 1, "1.0": 2, "2.0": 4, "+Inf": 6}, 20.5, 99),
        pushed.histogram("wait_seconds", (), {"0.5": 1, "1.0": 3, "2.0": 5, "+Inf": 7}, 21.5, 99),
        pushed.histogram("size", (), {"10.0": 1, "+Inf": 1}, 7.0, 101),
    ]
    assert [
        [],
        [
            "wait_seconds:500|ms",
            "wait_seconds:2000|ms|@0.3333333333333333",
            "wait_seconds:2000|ms|@0.5",
            "wait_seconds_count:6|c",
            "wait_seconds_sum:20.5|c",
        ],
        [],
        ["wait_seconds:1000|ms", "wait_seconds_count:1|c", "wait_seconds_sum:1|c"],
        ["size:10|ms", "size_count:1|c", "size_sum:7|c"],
    ] == [sent(deltas, pushed.reading(found)) for found in readings]


def test_a_summary_is_its_count_and_its_sum() -> None:
    """A quantile, which may go down, and the time of a label set's creation are no counts."""
    deltas = Deltas(Lines("none"), BEGAN)

    def summary(count: float, quantile: float, created: float) -> Reading:
        samples = [
            pushed.Sample("size", (("quantile", "0.5"),), quantile),
            *(
                pushed.Sample(f"size_{name}", (), value)
                for name, value in (("count", count), ("sum", 2 * count), ("created", created))
            ),
        ]
        return pushed.reading(pushed.metric("summary", "size", ((), samples), start=99))

    found = [sent(deltas, summary(*values)) for values in ((3, 8, 50), (5, 1, 60), (6, 2, 60))]
    assert [[], ["size_count:2|c", "size_sum:4|c"], ["size_count:1|c", "size_sum:2|c"]] == found


def test_datagrams_are_as_full_as_they_may_be() -> None:
    """No datagram is longer than its limit, all lines are there in their order, and a longer line is alone."""
    lines = [Line("x" * size) for size in (10, 4, 4, 30, 1, 1)]
    found = [datagram.decode() for datagram, _ in packed(lines, 15)]
    assert ["x" * 10 + "\n" + "x" * 4, "x" * 4, "x" * 30, "x\nx"] == found


def test_an_agent_that_comes_back(tmp_path: Path) -> None:
    """Counts that a unix socket did not take go with a later reading, all of them once."""
    path = tmp_path / "agent.sock"
    statsd = Statsd(Address(path=str(path)), "none", began=BEGAN)
    ended = threading.Event()
    counts = itertools.count(1)
    problems = []
    for _ in range(2):
        with pytest.raises(PushError) as raised:
            statsd.send(pushed.reading(pushed.counter("hits", (), next(counts), 101)), ended)
        problems.append((str(raised.value).split(". ")[0], raised.value.lost))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(path))
        for _ in range(2):
            statsd.send(pushed.reading(pushed.counter("hits", (), next(counts), 101)), ended)
        found = [agent.recv(1000), agent.recv(1000)]
    assert [b"hits_total:3|c", b"hits_total:1|c"] == found
    assert [(f"--statsd='unix:{path}' gets nothing (No such file or directory)", 0)] * 2 == problems


def test_a_port_that_nobody_listens_on() -> None:
    """What a closed port of this host refuses is sent again once it is open, and a port that is open gets all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((live.own_host(), 0))
        host, port = receiver.getsockname()
    statsd = Statsd(Address(host, port), "none", began=BEGAN)
    with pytest.raises(PushError, match="Connection refused"):
        statsd.send(pushed.reading(pushed.counter("hits", (), 2, 101)), threading.Event())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((host, port))
        statsd.send(pushed.reading(pushed.counter("hits", (), 5, 101)), threading.Event())
        assert b"hits_total:5|c" == again.recv(1000)


def test_what_is_lost_are_gauges(tmp_path: Path) -> None:
    """Of a reading that is not sent, gauges are lost: counts go with the next one."""
    statsd = Statsd(Address(path=str(tmp_path / "agent.sock")), began=BEGAN)
    reading = pushed.reading(pushed.counter("hits", (), 1, 101), pushed.gauge("left", (), 2))
    with pytest.raises(PushError) as raised:
        statsd.send(reading, threading.Event())
    assert (1, 1) == (raised.value.lost, statsd.lost(reading))


def test_each_address_of_a_host_is_tried(receiver: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that listens on the second of a host's addresses alone gets all, once."""
    found = socket.getaddrinfo("127.0.0.2", receiver.getsockname()[1], type=socket.SOCK_DGRAM)
    found += socket.getaddrinfo("127.0.0.1", receiver.getsockname()[1], type=socket.SOCK_DGRAM)
    # What a resolver that knows two addresses answers.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    statsd = Statsd(Address("agent", receiver.getsockname()[1]), "none", most=20, began=BEGAN)
    for count in (2, 5):
        metrics = [pushed.counter(name, (), count, 101) for name in ("hits", "others")]
        statsd.send(pushed.reading(*metrics), threading.Event())
    datagrams = [receiver.recv(1000) for _ in range(4)]
    assert [b"hits_total:2|c", b"others_total:2|c", b"hits_total:3|c", b"others_total:3|c"] == datagrams


def test_a_datagram_that_is_too_long(receiver: socket.socket) -> None:
    """What the kernel sends in no datagram is told with the remedy, and keeps nothing else from being sent."""
    address = Address("127.0.0.1", receiver.getsockname()[1])
    long = pushed.gauge("long", (("a", "x" * 70000),), 1)
    many = [pushed.gauge("many", (("a", f"{n:01000}"),), 1) for n in range(70)]
    told = []
    for most, metrics in ((1432, [long]), (70000, many)):
        with pytest.raises(PushError) as raised:
            Statsd(address, most=most).send(
                pushed.reading(*metrics, pushed.gauge("short", (), 1)), threading.Event()
            )
        told.append((str(raised.value)[:120], raised.value.lost, raised.value.lasting))
    found = receiver.recv(65536)
    where = f"--statsd='{address}' takes no datagram of"
    assert b"short:1|g" == found
    assert (1, True) == told[0][1:]
    assert told[0][0].startswith(f"{where} 70012 bytes. Shorten the labels of 'long:1|g|#a:xxx"), told
    assert told[1][0].startswith(f"{where} 69"), told
    assert "Set --datagram-bytes to less than 69" in told[1][0]


def test_a_real_statsd(shared: Path, tmp_path: Path) -> None:
    """
    etsy's statsd adds up exactly what was recorded since the command began, as timers too; gauges are as they are, below 0 as well.
    What is recorded before SIGTERM is sent.
    """
    if not STATSD.exists():
        raise FileNotFoundError(2, "make test installs it", "statsd")
    (tmp_path / "backend.js").write_text(BACKEND)
    (tmp_path / "config.js").write_text(
        f"{{port: 8125, mgmt_port: 8126, flushInterval: 200, backends: [{json.dumps(str(tmp_path / 'backend.js'))}]}}"
    )
    with documents.network() as network, pushed.application(shared) as record:
        enter = ["nsenter", f"--net=/proc/{network}/ns/net"]
        record("book", 7, 20, [0.2])
        with live.LiveServer(
            [*enter, "node", str(STATSD), str(tmp_path / "config.js")], ready=(r"server is up", 1)
        ) as statsd:

            def totals() -> dict[str, Any]:
                found = [line for line in statsd.log().splitlines() if "TOTAL " in line]
                return json.loads(found[-1].partition("TOTAL ")[2]) if found else {"gauges": {}}

            options = ["--statsd", "127.0.0.1:8125", "--tags", "none"]
            with pushed.pushing(shared, *options, before=enter) as push:
                live.eventually(totals, lambda found: found["gauges"].get("shop_balance") == 20)
                record("book", 3, -4, [0.2, 0.3, 0.3, 9.0])
                record("game", 2, -4, [0.05] * 7)
                push.kill(15)
                assert 0 == push.wait()
                log = push.log()
            found = live.eventually(totals, lambda found: found["counters"].get("shop_orders_total.game"))
    own = {
        kind: {name: value for name, value in found[kind].items() if name.startswith("shop_")}
        for kind in ("counters", "timers", "gauges")
    }
    sum_of_waits = own["counters"].pop("shop_wait_seconds_sum")
    assert pytest.approx(0.2 + 0.3 + 0.3 + 9.0 + 7 * 0.05) == sum_of_waits
    assert {
        "counters": {
            "shop_orders_total.book": 3,
            "shop_orders_total.game": 2,
            "shop_wait_seconds_count": 11,
        },
        "timers": {"shop_wait_seconds": {"count": 11, "highest": 2500}},
        "gauges": {"shop_balance": -4},
    } == own
    assert "0 were not; 0 samples are lost" in log


def test_tags_that_there_are() -> None:
    """The three forms of tags that the help names are the forms that lines have."""
    assert [3, 3] == [len(TAGS), len({Lines(tags).counter("a", (("b", "c"),), 1.0) for tags in TAGS})]
