"""
Merge what collectors and the functions of gauges have returned in each process: their files are in the shared directory.

1. A figure is of a living process, and gone with it, whatever its mode. One without a mode is the application's: the
   youngest answer is shown until it is no longer true, also if the process that asked has ended.
2. Samples are merged if collectors of one name have returned them in several processes. Of others the first one's is shown.
3. Nothing is shown twice. A gauge of a family that the slots have is shown instead of theirs, since a function knows better;
   any other sample that they have is left out, since a counter of theirs must not go back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.metrics_core import METRIC_TYPES
from prometheus_client.samples import Exemplar, Sample

from wsgi_prom.merge.children import MERGES
from wsgi_prom.merge.families import client_metric
from wsgi_prom.merge.names import possible, without_pid
from wsgi_prom.store import answer_file, directory_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.children import Labels
    from wsgi_prom.merge.families import Families
    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.answer_file import Contents, Family, Record

    Key = tuple[str, Labels]  # the name and the labels of a sample


class _Answer(NamedTuple):
    """A sample of one collector in one process, and when it was asked."""

    at: float
    sample: answer_file.AnsweredSample


class Merged:
    """
    The metrics of collectors: *metrics* of their own, and by the name of a family of the slots *more* samples of it.

    *conflicts* are names of metrics that were left out.
    """

    def __init__(self) -> None:
        self.metrics: list[Metric] = []
        self.more: dict[str, dict[Key, float]] = {}
        self.conflicts: set[str] = set()


class AnswerFiles:
    """The files of answers in the directory *path*. What was read is kept: to parse 3,200 answers takes 25 ms."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[int, Contents] = {}

    def read(
        self, names: Iterable[str], slots: Iterable[Reading], owners: frozenset[int] | None
    ) -> tuple[list[tuple[str, Record]], list[str]]:
        """
        Return the records that are true, of files among *names*, each with the number of its slot; and what is unreadable.

        Of the *slots* only those that live have figures of their own process. *owners* are the uids whose files are read, None
        for all.
        """
        kept, self._kept = self._kept, {}
        numbers = answer_file.numbers(names)
        if not numbers:
            return [], []
        claimants = {slot.name: slot.claim[1:4] for slot in slots if slot.live}
        found: list[tuple[str, Record]] = []
        unreadable = []
        with directory_files.opened(self._path) as folder:
            now = time.monotonic()
            for number in numbers:
                try:
                    contents = answer_file.read(folder, number, owners, kept.get(number))
                except FileNotFoundError:
                    continue
                except Exception:
                    # Any error, also of memory that a damaged file asks for: the others are shown.
                    unreadable.append(answer_file.name(number))
                    continue
                self._kept[number] = contents
                slot = str(number)
                lives = claimants.get(slot) == contents.process
                found += [
                    (slot, record)
                    for record in contents.records
                    if record.until > now and (lives or not record.mode)
                ]
        return _youngest(found), unreadable


def _youngest(found: list[tuple[str, Record]]) -> list[tuple[str, Record]]:
    """Leave out all but the youngest answer of each collector that is asked once for the application. Sorted by collector."""
    last: dict[tuple[str, int], Record] = {}
    for _, record in found:
        key = record.collector, record.ordinal
        if not record.mode and (key not in last or last[key].at < record.at):
            last[key] = record
    youngest = set(map(id, last.values()))
    kept = [item for item in found if item[1].mode or id(item[1]) in youngest]
    return sorted(kept, key=lambda item: (item[1].collector, item[1].ordinal, int(item[0])))


def merge(found: Iterable[tuple[str, Record]], families: Families) -> Merged:
    """Return what *found*, of `AnswerFiles.read`, has beside *families*."""
    merger = _Merger(families)
    for number, record in found:
        for family in record.families:
            merger.add(number, record, family)
    return merger.result()


class _Merger:
    def __init__(self, families: Families) -> None:
        self._families = {family.name: family for family in families}
        self._result = Merged()
        self._metrics: dict[str, Metric] = {}
        # By the name of a family and by sample: whose collector's it is, its mode, and the answers by slot.
        self._answers: dict[str, dict[Key, tuple[str, str, dict[str, _Answer]]]] = {}
        # The family that has each name, of a family or of a sample.
        self._names = dict(families.sample_names)

    def add(self, number: str, record: Record, family: Family) -> None:
        name = family.name
        names = {name, *(sample.name for sample in family.samples)}
        if not self._admits(family, names, {tuple(sample.labels) for sample in family.samples}):
            self._result.conflicts.add(name)
            return
        if name not in self._metrics:
            self._metrics[name] = client_metric(name, family.documentation, family.type, family.unit)
        self._names.update(dict.fromkeys(names, name))
        answers = self._answers.setdefault(name, {})
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            if record.mode.endswith("all"):
                labels = tuple(sorted((*without_pid(labels), ("pid", number))))
            collector, _, by_slot = answers.setdefault(
                (sample.name, labels), (record.collector, record.mode, {})
            )
            if collector == record.collector:
                by_slot.setdefault(number, _Answer(record.at, sample))

    def _admits(self, family: Family, names: set[str], labels: Iterable[tuple[str, ...]]) -> bool:
        """
        Return whether a page can show *family* beside all that it has: its type, the *names* of its samples, their *labels*.
        """
        if family.type not in (*METRIC_TYPES, "untyped") or not all(names) or not all(map(possible, labels)):
            return False
        others = [self._metrics.get(family.name), self._families.get(family.name)]
        if any(other is not None and other.type != family.type for other in others):
            return False
        return {self._names.get(name, family.name) for name in names} == {family.name}

    def result(self) -> Merged:
        for name, answers in self._answers.items():
            samples = {
                key: _merged(key, mode, list(by_slot.values())) for key, (_, mode, by_slot) in answers.items()
            }
            metric, family = self._metrics[name], self._families.get(name)
            if family is None:
                metric.samples = list(samples.values())
                self._result.metrics.append(metric)
                continue
            there: set[Key] = set()
            if metric.type != "gauge":
                there = {(sample, tuple(sorted(labels))) for sample, labels in family.samples}
            more = {key: sample.value for key, sample in samples.items() if key not in there}
            if more:
                self._result.more[family.name] = more
        self._result.metrics.sort(key=lambda metric: metric.name)
        return self._result


def _merged(key: Key, mode: str, answers: list[_Answer]) -> Sample:
    name, labels = key
    latest = max(answers, key=lambda answer: answer.at).sample
    value, timestamp = latest.value, latest.timestamp
    merge = MERGES.get(mode.removeprefix("live"))
    if merge is not None and len(answers) > 1:
        value, timestamp = merge(answer.sample.value for answer in answers), None
    exemplar = None if latest.exemplar is None else Exemplar(*latest.exemplar)
    return Sample(name, dict(labels), value, timestamp, exemplar)
