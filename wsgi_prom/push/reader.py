"""
Reads a shared directory for `wsgi-prom push`.

1. Its figures are those of a page: of the same collector.
2. A metric that cannot stand beside another one is left out, as it is from a page.
3. There is no reading of a server that has ended, though its directory may stay; and one that begins in the same directory goes on
   with no figure of the former one.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter.target import Target, add_errors, own_metrics
from wsgi_prom.merge.archiving import Archiver
from wsgi_prom.merge.collector import Collector
from wsgi_prom.merge.names import UNDERSCORES, encodable, metric_name
from wsgi_prom.push import custom_samples
from wsgi_prom.push.reading import Child, Metric, Reading, Sample, shown_labels
from wsgi_prom.server.workers import Workers, has_hook
from wsgi_prom.store.locks import LockFile
from wsgi_prom.warning import warn_once

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric as ClientMetric

    from wsgi_prom.merge.families import Family
    from wsgi_prom.merge.readers import Reading as SlotReading
    from wsgi_prom.push.reading import Labels


class Reader:
    """Reads the directory *path*. For one thread."""

    def __init__(self, path: Path, target: Target) -> None:
        self.path = path
        self._target = target
        # Samples of custom collectors, in all readings.
        self._left_out = 0
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
        workers = self._workers.families(slots, hooked=has_hook(slots))
        errors = add_errors(families, "push", self._left_out)
        left_out = families.conflicts_on(UNDERSCORES)
        found = [
            self._of_family(family, families.more.get(family.name, {}))
            for family in families
            if family.name not in left_out
        ]
        others = [metric for metric in families.others if metric.name not in left_out]
        about = own_metrics(
            self._collector.report, self._target.info(self.path), *workers, *own, *errors, left_out=left_out
        )
        found += map(self._of_metric, (*others, *about))
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
        return LockFile.of(self.path).has_servers()

    def _of_family(self, family: Family, more: dict[tuple[str, Labels], float]) -> Metric:
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
                children.append(Child(shown_labels(labels), start, tuple(samples)))
        custom = ((name, dict(labels), value) for (name, labels), value in more.items())
        children += self._custom(family.name, family.type, custom)
        return _metric(family.name, family.type, family.help, family.unit, children)

    def _of_metric(self, metric: ClientMetric) -> Metric:
        samples = ((sample.name, sample.labels, sample.value) for sample in metric.samples)
        children = self._custom(metric.name, metric.type, samples)
        return _metric(metric.name, metric.type, metric.documentation, metric.unit, children)

    def _custom(
        self, name: str, kind: str, samples: Iterable[tuple[str, dict[str, str], Any]]
    ) -> list[Child]:
        found, left_out = custom_samples.children(kind, samples)
        if left_out:
            warn_once(
                f"samples of {name} are not pushed: a {kind} has no such values, labels or buckets. Correct the collector"
            )
            self._left_out += left_out
        return found


def _metric(name: str, kind: str, text: object, unit: object, children: list[Child]) -> Metric:
    return Metric(metric_name(name), kind, encodable(str(text)), encodable(str(unit or "")), children)
