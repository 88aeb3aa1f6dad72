"""
Make metric families of the rows and their sums: which samples a page has, and their values.

1. A row gives values to one child (a label set) of each family that its schema names.
2. The list of a family's children is the same object from scrape to scrape until a sample is new or gone. Values are made anew.
3. Of two metrics that cannot stand on one page, the first that was met is shown. Names are compared as the application has
   spelled them, and by `conflicts_on` as a page spells them.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from prometheus_client import metrics_core as core
from prometheus_client.samples import Exemplar

from wsgi_prom.merge.children import CHILDREN
from wsgi_prom.merge.names import distinct, label_name, metric_name, page_name, possible
from wsgi_prom.metrics import HELPS_OF_REQUESTS
from wsgi_prom.store import text_labels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from wsgi_prom.merge.children import Child, Labels, Shape
    from wsgi_prom.merge.sums import Sums
    from wsgi_prom.store.schemas import Metric, Schema

    # A family that a schema's rows are part of, the metric, and its labels: name and position.
    Plan = tuple["Family", Metric, list[tuple[str, int]]]

_SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_count", "_sum"),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("_info",),
    "stateset": ("",),
}
# Types whose samples, or labels, may be others at each scrape.
_CHANGING: Final = frozenset({"gauge", "info", "stateset"})


class Family:
    """
    A metric family of the page: the labels and shape of each of its *children*, and the *values* of all their samples.
    """

    def __init__(self, metric: Metric, sums: Sums) -> None:
        self.name = metric.name
        self.type = metric.type
        self.help = metric.help
        self.unit = metric.unit
        # The names of its samples' labels: of processes that do not agree, more than one tuple.
        self.labelnames: set[tuple[str, ...]] = set()
        self.children: list[tuple[Labels, Shape]] = []
        self.values: list[float] = []
        self._sums = sums
        self._by_labels: dict[Labels, Child] = {}
        # The children that are not removed.
        self._shown: list[Child] = []
        self._removed: frozenset[int] = frozenset()
        self._changed = False

    @property
    def samples(self) -> Iterator[tuple[str, Labels]]:
        """The name and all labels of each sample, in the order of the values."""
        return ((name, labels + more) for labels, shape in self.children for name, more in shape)

    @property
    def starts(self) -> list[float]:
        """Since when each child counts, in seconds since the epoch, 0 if that is not known. Made at each call."""
        return [child.start() for child in self._shown if child.shape]

    @property
    def exemplars(self) -> dict[int, Exemplar]:
        """The exemplars, by the position of their sample. Their labels are in the order of their names."""
        if not self._sums.texts:
            return {}
        found = chain.from_iterable([child.exemplars() for child in self._shown])
        return {
            at: Exemplar(dict(distinct(text_labels.load(text.text))), text.value, text.time)
            for at, text in enumerate(found)
            if text is not None and text.text
        }

    def child(self, labels: Labels) -> Child:
        """Return the child of *labels*, to which the caller adds a row."""
        self._changed = True
        child = self._by_labels.get(labels)
        if child is None:
            child = self._by_labels[labels] = CHILDREN[self.type](self.name, labels, self._sums)
        return child

    def update(self) -> None:
        removed = self._sums.removed
        if self._changed or removed != self._removed:
            self._removed, self._changed = removed, True
            children = self._by_labels.values()
            self._shown = [child for child in children if not removed.issuperset(child.rows)]
        self.values = list(chain.from_iterable([child.values() for child in self._shown]))
        if self._changed or self.type in _CHANGING:
            found = [(child.labels, child.shape) for child in self._shown if child.shape]
            if found != self.children:
                self.children = found
            self._changed = False


class Families:
    """All families of a page, in the order of their names, made of the rows of *sums*."""

    def __init__(self, sums: Sums) -> None:
        # Metrics left out because another one has the same name and another type, or samples of the same name.
        self.conflicts: set[str] = set()
        # The answers of collectors and functions of gauges (answers.py): metrics of their own, and more samples of the families.
        self.others: list[core.Metric] = []
        self.more: dict[str, dict[tuple[str, Labels], float]] = {}
        # The metric of each name that a sample may have.
        self.sample_names: dict[str, str] = {}
        self._families: dict[str, Family] = {}
        # By the schema's identity, since its hash costs more than everything else here. The sums keep it alive.
        self._plans: dict[int, list[Plan]] = {}
        # Names of the metrics of requests, and of others.
        self._of_requests: set[str] = set()
        self._of_code: set[str] = set()
        self._met = 0
        self._sums = sums

    def taken(self, others: Iterable[core.Metric] = ()) -> list[str]:
        """
        Return the names, as on a page, of metrics of requests that the application has given to its own metrics as well.

        *others* are metrics of the application beside those of the processes.
        """
        # A custom collector's objects may lack a type: that costs their own lines, and not the page.
        names = {page_name(metric.name, getattr(metric, "type", "")) for metric in others}
        return sorted(name for name in self._of_requests if name in self._of_code or name in names)

    def __iter__(self) -> Iterator[Family]:
        return iter([self._families[name] for name in sorted(self._families)])

    def to_metrics(self) -> Iterator[core.Metric]:
        """Return the families as the client library's objects, for code that works with those."""
        for family in self:
            metric = client_metric(family.name, family.help, family.type, family.unit)
            exemplars, more = family.exemplars, self.more.get(family.name, {})
            for at, ((name, labels), value) in enumerate(zip(family.samples, family.values, strict=True)):
                if not more or (name, tuple(sorted(labels))) not in more:
                    metric.add_sample(name, dict(labels), value, exemplar=exemplars.get(at))
            for (name, labels), value in more.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
        yield from self.others

    def update(self) -> None:
        """Add the rows that are new, and make all values anew."""
        for number in range(self._met, len(self._sums.rows)):
            schema, labelvalues = self._sums.rows[number]
            plans = self._plans.get(id(schema))
            if plans is None:
                plans = self._plans[id(schema)] = list(self._plan(schema))
            for family, metric, names in plans:
                labels = tuple([(name, labelvalues[n]) for name, n in names])
                child = family.child(labels)
                child.rows.append(number)
                child.add(number, metric)
                if metric.zero:
                    # increase() of Prometheus does not see the first value of a series.
                    zero = dict(zip(metric.zero[::2], metric.zero[1::2], strict=True))
                    family.child(tuple([(n, zero.get(n, v)) for n, v in labels])).show(number, metric)
        self._met = len(self._sums.rows)
        for family in self._families.values():
            family.update()

    def conflicts_on(self, escaping: str, others: Iterable[core.Metric] = ()) -> frozenset[str]:
        """
        Return the names of metrics that have no place on a page of this *escaping*: their names, or those of their labels, are
        those of another one there. *others* are metrics beside those of the processes.
        """
        entries = [
            (family.name, _sample_names(family), family.labelnames) for family in self._families.values()
        ]
        for metric in (*self.others, *others):
            with suppress(Exception):  # not as the library's metrics are: it has no line
                if metric.name not in self._families:
                    labels = {tuple(sample.labels) for sample in metric.samples}
                    entries.append((metric.name, {sample.name for sample in metric.samples}, labels))
        taken: set[str] = set()
        conflicts = set()
        for name, samples, labelnames in entries:
            shown = {metric_name(sample, escaping) for sample in (name, *samples)}
            if taken.isdisjoint(shown) and _stand_together(labelnames, escaping):
                taken |= shown
            else:
                conflicts.add(name)
        return frozenset(conflicts)

    def _plan(self, schema: Schema) -> Iterator[Plan]:
        for metric in schema.metrics:
            self._note_origin(schema, metric)
            names = sorted((schema.labelnames[n], n) for n in metric.labels)
            family = self._family(metric, tuple([name for name, _ in names]))
            if family is not None:
                yield family, metric, names

    def _note_origin(self, schema: Schema, metric: Metric) -> None:
        name = page_name(metric.name, metric.type)
        if metric.help in HELPS_OF_REQUESTS:
            self._of_requests.add(name)
        # A row of several metrics is one of requests too: of another version, with other help texts, from before a reload.
        elif len(schema.metrics) == 1:
            self._of_code.add(name)

    def _family(self, metric: Metric, labelnames: tuple[str, ...]) -> Family | None:
        own = {"histogram": ("le",), "stateset": (metric.name,)}
        labelnames += own.get(metric.type, ())
        family = self._families.get(metric.name)
        if family is None and metric.name and metric.type in _SUFFIXES:
            names = {metric.name, *_sample_names(metric)}
            if possible(labelnames) and names.isdisjoint(self.sample_names):
                self.sample_names.update(dict.fromkeys(names, metric.name))
                family = self._families[metric.name] = Family(metric, self._sums)
        if family is None or family.type != metric.type or not possible(labelnames):
            self.conflicts.add(metric.name)
            return None
        family.labelnames.add(labelnames)
        family.unit = family.unit or metric.unit  # which files of the client library do not tell
        return family


def client_metric(name: str, text: str, kind: str, unit: str) -> core.Metric:
    """Return a metric of the client library, without samples."""
    metric = core.Metric("_", text, kind)
    # Not by the constructor: the application may validate names by other rules now, or than this process does.
    metric.name, metric.unit = name, unit
    return metric


def _sample_names(metric: Metric | Family) -> set[str]:
    return {metric.name + suffix for suffix in _SUFFIXES[metric.type]}


def _stand_together(labelnames: Collection[tuple[str, ...]], escaping: str) -> bool:
    """Return whether samples of one metric may have labels of each of these names, and no two are the same on the page."""
    shown = {frozenset([label_name(name, escaping) for name in names]) for names in labelnames}
    alike = len(shown) < len(set(map(frozenset, labelnames)))
    return not alike and all(possible(names, escaping) for names in labelnames)
