"""
A reading: all metrics of a shared directory at one time, as every road sends them.

1. Its figures are those of a page: of the same collector, with names in the escaping that every Prometheus reads.
2. A metric that cannot stand beside another one is left out, as it is from a page.
3. There is no reading of a server that has ended, though its directory may stay; and one that begins in the same directory goes on
   with no figure of the former one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.target import Target, own_metrics
from wsgi_prom.merge.archiving import Archiver
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.names import UNDERSCORES, distinct, encodable, label_name, metric_name
from wsgi_prom.server.workers import Workers
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric as ClientMetric

    from wsgi_prom.merge.families import Family
    from wsgi_prom.merge.readers import Reading as SlotReading

Labels = tuple[tuple[str, str], ...]

# Labels that tell the samples of one label set apart, by type.
_PARTS: Final = {"histogram": ("le",), "gaugehistogram": ("le",), "summary": ("quantile",)}


class Sample(NamedTuple):
    """*more* are its labels beside those of its label set: `le`."""

    name: str
    more: Labels
    value: float


class Child(NamedTuple):
    """
    A label set: its *labels* in the order of their names.

    *start*: since when it counts, in seconds since the epoch; 0 if unknown.
    """

    labels: Labels
    start: float
    samples: tuple[Sample, ...]


class Metric(NamedTuple):
    """A metric; *name* is without the `_total` of a counter. *type* is as the client library spells it."""

    name: str
    type: str
    help: str
    unit: str
    children: list[Child]


class Reading(NamedTuple):
    """The *metrics* at a *time*, in seconds since the epoch. Without any, those of the readings before have ended."""

    time: float
    metrics: list[Metric]

    @property
    def series(self) -> Iterator[tuple[str, Labels, float]]:
        """The name, the labels in the order of their names, and the value of each sample."""
        for metric in self.metrics:
            for child in metric.children:
                for name, more, value in child.samples:
                    yield name, (tuple(sorted(child.labels + more)) if more else child.labels), value

    @property
    def size(self) -> int:
        """The number of samples."""
        return sum([len(child.samples) for metric in self.metrics for child in metric.children])


def exported(labels: Labels, taken: Container[str]) -> dict[str, str]:
    """Return *labels*, less empty ones; a name that is *taken* gets the prefix `exported_`, as in a scrape."""
    found: dict[str, str] = {}
    for name, value in labels:
        shown = name
        while shown in taken or shown in found:
            shown = f"exported_{shown}"
        if value:
            found[shown] = value
    return found


class Reader:
    """Reads the directory *path*. For one thread."""

    def __init__(self, path: Path, target: Target) -> None:
        self.path = path
        self._target = target
        self._begin()

    def _begin(self) -> None:
        self._collector = Collector(self.path)
        self._workers = Workers()
        self._archiver = Archiver(self.path)
        # The nonces of the slots of the last reading, and whether a process lived then.
        self._slots: set[int | None] = set()
        self._lived = False

    def read(self, own: Iterable[ClientMetric] = ()) -> Reading:
        """
        Return what the directory tells now, and *own*.

        Raises DirectoryError if there is no directory, if it cannot be read, and if its server has ended before the last reading.
        """
        if not self.path.exists():
            self._begin()
            raise DirectoryError(f"{self.path} does not exist")
        now = time.time()
        self._archiver.archive_ended()
        families = self._collector.collect()
        if self._is_new():
            self._begin()
            families = self._collector.collect()
        slots = self._collector.slots
        self._slots = {slot.nonce for slot in slots}
        # Once more after the end, for what was counted just before it.
        lived, self._lived = self._lived, self._lives(slots)
        if not (lived or self._lived):
            raise DirectoryError(f"the server of {self.path} has ended")
        hooked = any(slot.live and slot.claim.stage for slot in slots)
        workers = self._workers.families(slots, hooked=hooked)
        left_out = families.conflicts_on(UNDERSCORES)
        report = self._collector.report
        report = replace(report, conflicts=report.conflicts + len(left_out))
        found = [
            _of_family(family, families.more.get(family.name, {}))
            for family in families
            if family.name not in left_out
        ]
        others = [metric for metric in families.others if metric.name not in left_out]
        for metric in (*others, *own_metrics(report, self._target.info(self.path), *workers, *own)):
            with suppress(Exception):  # of a collector of the application: not as the library's metrics are
                found.append(_of_metric(metric))
        taken: dict[str, Metric] = {}
        for entry in found:
            if entry.children:
                taken.setdefault(entry.name, entry)
        return Reading(now, list(taken.values()))

    def _is_new(self) -> bool:
        """Return whether none of the slots of the last reading is there any more: another server has begun in the directory."""
        report = self._collector.report
        met = len({slot.nonce for slot in self._collector.slots} - self._slots)
        only_new = report.slots_live + report.slots_free == met
        # A slot that cannot be read for a moment is not gone.
        return bool(self._slots) and report.readable and only_new and (met > 0 or not report.unreadable)

    def _lives(self, slots: list[SlotReading]) -> bool:
        """
        Return whether a process of the server lives.

        True where nobody can tell: without a server's hook, what ended processes have counted is what there is to send.
        """
        if any(slot.live for slot in slots) or not any(slot.claim.stage for slot in slots):
            return True
        return any(True for _ in LockFile.of(self.path).servers())


def _of_family(family: Family, more: dict[tuple[str, Labels], float]) -> Metric:
    children = []
    values = iter(family.values)
    for (labels, shape), start in zip(family.children, family.starts, strict=True):
        own = zip(shape, islice(values, len(shape)), strict=True)
        samples = [Sample(metric_name(name), extra, value) for (name, extra), value in own]
        if more:
            samples = [
                sample
                for sample, (name, extra) in zip(samples, shape, strict=True)
                if (name, tuple(sorted(labels + extra))) not in more
            ]
        if samples:
            children.append(Child(_labels(labels), start, tuple(samples)))
    children += _grouped(family.type, ((name, dict(labels), value) for (name, labels), value in more.items()))
    return Metric(metric_name(family.name), family.type, family.help, family.unit, children)


def _of_metric(metric: ClientMetric) -> Metric:
    samples = ((sample.name, sample.labels, float(sample.value)) for sample in metric.samples)
    return Metric(
        metric_name(metric.name),
        metric.type,
        metric.documentation,
        metric.unit,
        _grouped(metric.type, samples),
    )


def _grouped(kind: str, samples: Iterable[tuple[str, dict[str, str], float]]) -> list[Child]:
    found: dict[Labels, list[Sample]] = {}
    parts = _PARTS.get(kind, ())
    for name, labels, value in samples:
        own = _labels((key, text) for key, text in labels.items() if key not in parts)
        more = tuple((key, str(labels[key])) for key in parts if key in labels)
        found.setdefault(own, []).append(Sample(metric_name(name), more, value))
    return [Child(labels, 0.0, tuple(parts)) for labels, parts in found.items()]


def _labels(labels: Iterable[tuple[str, str]]) -> Labels:
    shown = [(label_name(name, UNDERSCORES), value) for name, value in distinct(labels, UNDERSCORES)]
    return tuple(sorted((name, value if value.isascii() else encodable(value)) for name, value in shown))
