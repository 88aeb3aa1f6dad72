"""
statsd: what counters have grown by since the last reading, gauges as they are, histograms as timers.

1. A count is sent once. Of a datagram that could not be sent, the counts go with the next reading.
2. The first reading is the base, but for label sets that began after this process did: all of their counts are new.
3. A label set whose start time is later than before began anew: all of it is new. One that is lower without that has lost a part,
   such as a process that a custom collector added up: it is the base of what follows.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.push.sender import PushError
from wsgi_prom.push.statsd_lines import Lines

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

    from wsgi_prom.push.reading import Child, Labels, Metric, Reading
    from wsgi_prom.setting_values import Address

    # A sample's name, and its labels beside those of its label set. With those, what it is known by.
    Part = tuple[str, Labels]
    Key = tuple[str, Labels, Labels]

# The bytes that a network with an MTU of 1,500 carries in one piece, less the headers of IP, UDP and some tunnel: the figure of
# DataDog's documentation and of etsy's.
UDP_BYTES: Final = 1432
# An agent's socket on the same host takes more; DogStatsD's clients send 8 KiB.
UNIX_BYTES: Final = 8192
# A unix socket whose reader is behind makes a sender wait.
_SEND_SECONDS: Final = 1.0

_SHOWN_CHARACTERS: Final = 200

_COUNTED: Final = ("counter", "histogram", "summary")


class Line(NamedTuple):
    """A *text* of one or two lines; once it is sent, the sample *key* has been sent up to *value*."""

    text: str
    key: Key | None = None
    value: float = 0.0


class Deltas:
    """Makes lines of readings, by *lines*. *began*: when this process did, in seconds since the epoch. For one thread."""

    def __init__(self, lines: Lines, began: float) -> None:
        self._lines = lines
        self._began = began
        self._sent: dict[Key, float] = {}
        # Since when each label set counted at the last reading.
        self._starts: dict[Key, float] = {}
        self._starts_present: dict[Key, float] = {}

    def of(self, reading: Reading) -> Iterator[Line]:
        """Yield the lines of *reading*. Tell by `sent` which were sent, before the next reading."""
        if not reading.metrics:  # what was sent before is known if they are there again
            return
        present: dict[Key, float] = {}
        for metric in reading.metrics:
            for child in metric.children:
                if metric.type in _COUNTED:
                    yield from self._counted(metric, child, present)
                else:
                    for name, more, value in child.samples:
                        if math.isfinite(value):
                            yield Line(self._lines.gauge(name, child.labels + more, value))
        # A series that is gone is forgotten. One that could not be sent keeps its base.
        self._sent = {key: self._sent.get(key, base) for key, base in present.items()}
        self._starts, self._starts_present = self._starts_present, {}

    def sent(self, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.key is not None:
                self._sent[line.key] = line.value

    def _counted(self, metric: Metric, child: Child, present: dict[Key, float]) -> Iterator[Line]:
        buckets = metric.type == "histogram"
        # Neither quantiles, which go up and down, nor times.
        values = {
            (name, more): value
            for name, more, value in child.samples
            if math.isfinite(value) and (buckets or not more) and not name.endswith("_created")
        }
        counts = _bucket_counts(child) if buckets else {}
        values.update({part: count for part, (count, _) in counts.items()})
        keys: dict[Part, Key] = {part: (part[0], child.labels, part[1]) for part in values}
        bases = self._bases(metric, child, keys, values)
        for part, value in values.items():
            key = keys[part]
            self._sent[key] = present[key] = bases[part]
            more = value - bases[part]
            if not more:
                continue
            if part in counts:
                text = self._lines.timer(metric.name, child.labels, counts[part][1] * _scale(metric), more)
            else:
                text = self._lines.counter(part[0], child.labels, more)
            yield Line(text, key, value)

    def _bases(
        self, metric: Metric, child: Child, keys: dict[Part, Key], values: dict[Part, float]
    ) -> dict[Part, float]:
        """Return from what on each of *values* is new."""
        whole = metric.name, child.labels, ()
        began_last = self._starts.get(whole)
        self._starts_present[whole] = child.start
        known = [self._sent[key] for key in keys.values() if key in self._sent]
        if len(known) == len(keys):
            # A sum may go down: of negative observations.
            lower = any(
                values[part] < self._sent[key] for part, key in keys.items() if not part[0].endswith("_sum")
            )
            # Unknown, it may have become known.
            if began_last and child.start > began_last:
                return dict.fromkeys(values, 0.0)
            return values if lower else {part: self._sent[key] for part, key in keys.items()}
        if not known and child.start > self._began:
            return dict.fromkeys(values, 0.0)
        # Since when is not known; or a histogram has other bounds since a reload.
        return values


def _bucket_counts(child: Child) -> dict[tuple[str, Labels], tuple[float, float]]:
    """Return the observations of each bucket, and the bound that stands for them: the upper one, of the last the lower."""
    found = {}
    before, lower = 0.0, 0.0
    for name, more, value in child.samples:
        if more:
            bound = float(more[0][1])
            found[name, more] = value - before, bound if math.isfinite(bound) else lower
            before, lower = value, bound
    return found


def _scale(metric: Metric) -> float:
    """Return what makes milliseconds of a time in seconds. Other histograms keep their unit."""
    return 1000.0 if metric.unit == "seconds" or metric.name.endswith("_seconds") else 1.0


def packed(lines: Iterable[Line], most: int) -> Iterator[tuple[bytes, list[Line]]]:
    """Yield datagrams of at most *most* bytes, and the lines in each. A line that is longer is alone."""
    texts: list[bytes] = []
    held: list[Line] = []
    size = 0
    for line in lines:
        text = line.text.encode("utf-8", "backslashreplace")
        if texts and size + 1 + len(text) > most:
            yield b"\n".join(texts), held
            texts, held, size = [], [], 0
        size += len(text) + bool(texts)
        texts.append(text)
        held.append(line)
    if texts:
        yield b"\n".join(texts), held


class Statsd:
    """The statsd at *address*, to which datagrams of at most *most* bytes are sent. For one thread."""

    name = "statsd"

    def __init__(
        self, address: Address, tags: str = "dogstatsd", most: int | None = None, began: float | None = None
    ) -> None:
        self._address = address
        self._most = most or (UNIX_BYTES if address.path else UDP_BYTES)
        self._deltas = Deltas(Lines(tags), time.time() if began is None else began)

    @property
    def where(self) -> str:
        return f"--statsd={str(self._address)!r}"

    def lost(self, reading: Reading) -> int:
        """See `Receiver`. Counts go with the next reading."""
        return sum(
            len(child.samples)
            for metric in reading.metrics
            if metric.type not in _COUNTED
            for child in metric.children
        )

    def send(self, reading: Reading, _ended: threading.Event) -> None:
        """See `Receiver`. There is no second attempt: the next reading has what this one could not send."""
        datagrams = deque(packed(list(self._deltas.of(reading)), self._most))
        too_long: list[tuple[bytes, list[Line]]] = []
        problem = ""
        try:
            for family, target in self._targets() if datagrams else ():
                try:
                    with socket.socket(family, socket.SOCK_DGRAM) as connection:
                        connection.settimeout(_SEND_SECONDS)
                        connection.connect(target)
                        self._send(connection, datagrams, too_long)
                    problem = ""
                    break
                except OSError as error:
                    problem = _reason(error)
        except (OSError, UnicodeError) as error:  # no address
            problem = _reason(error)
        lines = [line for _, held in (*datagrams, *too_long) for line in held]
        lost = sum(line.key is None for line in lines)
        if problem:
            raise PushError(
                f"{self.where} gets nothing ({problem}). Name the address of a statsd that runs; "
                "what is counted meanwhile is sent then",
                lost=lost,
            )
        if too_long:
            datagram, held = max(too_long, key=lambda found: len(found[0]))
            remedy = f"Set --datagram-bytes to less than {len(datagram)}"
            if len(held) == 1:
                remedy = f"Shorten the labels of {held[0].text[:_SHOWN_CHARACTERS]!r}"
            raise PushError(
                f"{self.where} takes no datagram of {len(datagram)} bytes. {remedy}", lost=lost, lasting=True
            )

    def _send(
        self,
        connection: socket.socket,
        datagrams: deque[tuple[bytes, list[Line]]],
        too_long: list[tuple[bytes, list[Line]]],
    ) -> None:
        """Send *datagrams*, and take what is sent out of them, and what is *too_long*. Raises OSError."""
        while datagrams:
            try:
                connection.send(datagrams[0][0])
                _check(connection)
                self._deltas.sent(datagrams[0][1])
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                too_long.append(datagrams[0])
            datagrams.popleft()

    def _targets(self) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the agent's addresses as of now: one that was started again has another one. Raises OSError, UnicodeError."""
        if self._address.path:
            return [(socket.AF_UNIX, self._address.path)]
        infos = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_DGRAM)
        return [(family, target) for family, _, _, _, target in infos]


def _check(connection: socket.socket) -> None:
    """Raise OSError if the datagram was refused: of a port of this host the kernel knows at once."""
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _reason(error: OSError | UnicodeError) -> str:
    return str(getattr(error, "strerror", None) or error)
