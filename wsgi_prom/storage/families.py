"""
What a scrape shows: families, their children, and the values of each child, added up from the blocks of all slots.

The objects live from scrape to scrape. A child whose figures did not change keeps the text that was rendered of it.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Final

from prometheus_client import metrics_core as core
from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wsgi_prom.storage.format import Metric, Schema

Labels = tuple[tuple[str, str], ...]
Shape = tuple[tuple[str, Labels], ...]

_SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_count", "_sum"),
    "histogram": ("_bucket", "_count", "_sum"),
}


class Entry:
    """One block, as the sum of it over all slots that have it."""

    __slots__ = ("children", "had_readings", "readings", "scrape", "sums", "totals")

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.totals: list[float] = []
        # While a scrape is under way: its number, the sums so far, and for gauges what each process shows.
        self.scrape = 0
        self.sums: list[float] = []
        self.readings: list[tuple[str, bool, list[float]]] = []
        self.had_readings = False


class Child:
    """
    One label set of a family: the names and labels of its samples (*shape*), and their *values*.

    *text* and *template* belong to the renderer; they are dropped here when they are no longer true.
    """

    __slots__ = ("_labels", "_name", "_parts", "shape", "template", "text", "values")

    def __init__(self, name: str, labels: Labels) -> None:
        self._name = name
        self._labels = labels
        self._parts: list[tuple[Entry, Metric]] = []
        self.shape: Shape = ()
        self.values: list[float] = []
        self.template: str | None = None
        self.text: str | None = None

    def add(self, entry: Entry, metric: Metric) -> None:
        self._parts.append((entry, metric))
        entry.children.append(self)

    def update(self) -> None:
        """Compute the values from the entries' totals."""
        shape, values = self._compute()
        if shape != self.shape:
            self.shape, self.template, self.text = shape, None, None
        if values != self.values:
            self.values, self.text = values, None

    def _compute(self) -> tuple[Shape, list[float]]:
        raise NotImplementedError


class CounterChild(Child):
    __slots__ = ()

    def _compute(self) -> tuple[Shape, list[float]]:
        return ((self._name + "_total", self._labels),), [_sum(self._parts, "count")]


class SummaryChild(Child):
    __slots__ = ()

    def _compute(self) -> tuple[Shape, list[float]]:
        shape = ((self._name + "_count", self._labels), (self._name + "_sum", self._labels))
        count = _sum(self._parts, "count") - _sum(self._parts, "less")
        return shape, [count, _sum(self._parts, "total")]


class HistogramChild(Child):
    """Parts with other bounds than the rest (two versions of an application at a reload) are merged bound by bound."""

    __slots__ = ("_bounds", "_known")

    def __init__(self, name: str, labels: Labels) -> None:
        super().__init__(name, labels)
        self._bounds: tuple[float, ...] = ()
        self._known: Shape = ()

    def add(self, entry: Entry, metric: Metric) -> None:
        super().add(entry, metric)
        if metric.bounds != self._bounds:
            self._bounds = tuple(sorted({*self._bounds, *metric.bounds}))
            bucket = self._name + "_bucket"
            buckets = [(bucket, (*self._labels, ("le", _bound(bound)))) for bound in self._bounds]
            self._known = (
                *buckets,
                (self._name + "_count", self._labels),
                (self._name + "_sum", self._labels),
            )

    def _compute(self) -> tuple[Shape, list[float]]:
        counts = [0.0] * len(self._bounds)
        for entry, metric in self._parts:
            if metric.buckets is None:
                continue
            found = entry.totals[slice(*metric.buckets)]
            if metric.bounds == self._bounds:
                counts = list(map(add, counts, found))
            else:
                for bound, count in zip(metric.bounds, found, strict=True):
                    counts[self._bounds.index(bound)] += count
        if not counts or self._bounds[-1] != float("inf"):
            return (
                (),
                [],
            )  # a file of the client library's, which makes the sum first and then bucket by bucket
        values = list(accumulate(counts))
        # The count is the last bucket, by definition: they cannot disagree.
        return self._known, [*values, values[-1], _sum(self._parts, "total")]


class GaugeChild(Child):
    """A gauge, by its multiprocess mode: one series for each process that shows it, or one of them all."""

    __slots__ = ()

    def _compute(self) -> tuple[Shape, list[float]]:
        mode = self._parts[0][1].mode
        readings = [
            (pid, columns) for entry, _ in self._parts for pid, live, columns in entry.readings
            if live or not mode.startswith("live")
        ]  # fmt: skip
        kind = mode.removeprefix("live")
        if kind == "mostrecent":
            # As in the client library: what was never set has the time 0 and is not shown.
            found = [(columns[1], columns[0]) for _, columns in readings if columns[1] > 0]
            values = [max(found, key=_first)[1]] if found else []
        elif kind in _MERGES:
            if kind != "sum":
                readings = [(pid, columns) for pid, columns in readings if columns[1]]
            values = [_MERGES[kind](columns[0] for _, columns in readings)] if readings else []
        else:
            by_pid = {pid: columns for pid, columns in readings if columns[1]}
            # As in the client library: an application's own label of that name gives way.
            labels = tuple(pair for pair in self._labels if pair[0] != "pid")
            shape = tuple((self._name, (*labels, ("pid", pid))) for pid in by_pid)
            return shape, [columns[0] for columns in by_pid.values()]
        return ((self._name, self._labels),) * len(values), values


class Family:
    """A metric family of the page: `# HELP`, `# TYPE`, and its children."""

    def __init__(self, metric: Metric) -> None:
        self.name = metric.name
        self.type = metric.type
        self.help = metric.help
        self._children: dict[Labels, Child] = {}

    def child(self, labels: Labels) -> Child:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = _CHILDREN[self.type](self.name, labels)
        return child

    def children(self) -> Iterable[Child]:
        return self._children.values()


class Families:
    """All families of a page, by name, and the blocks that they are added up from."""

    def __init__(self) -> None:
        self.entries: dict[tuple[Schema, tuple[str, ...]], Entry] = {}
        # Metrics left out since another of the same name has another type, or samples of the same name.
        self.conflicts: set[str] = set()
        self._families: dict[str, Family] = {}
        self._names: dict[str, str] = {}

    def __iter__(self) -> Iterator[Family]:
        return iter([self._families[name] for name in sorted(self._families)])

    def to_metrics(self) -> Iterator[core.Metric]:
        """Return the families as the client library's objects, for code that works with those."""
        for family in self:
            metric = core.Metric(family.name, family.help, family.type)
            for child in family.children():
                for (name, labels), value in zip(child.shape, child.values, strict=True):
                    metric.add_sample(name, dict(labels), value)
            yield metric

    def entry(self, schema: Schema, labelvalues: tuple[str, ...]) -> Entry:
        entry = self.entries.get((schema, labelvalues))
        if entry is None:
            entry = self.entries[schema, labelvalues] = Entry()
            for metric in schema.metrics:
                family = self._family(metric, schema.labelnames)
                if family is not None:
                    pairs = [(schema.labelnames[n], labelvalues[n]) for n in metric.labels]
                    family.child(tuple(sorted(pairs))).add(entry, metric)
        return entry

    def _family(self, metric: Metric, labelnames: tuple[str, ...]) -> Family | None:
        # By the names that the page has: two that differ in odd characters alone are one there.
        clear = _possible(labelnames, metric.type)
        family = self._families.get(metric.name)
        if clear and family is not None and family.type == metric.type:
            return family
        shown = metric_name(metric.name)
        names = {shown + suffix for suffix in _SUFFIXES.get(metric.type, ())} if shown and clear else set()
        if family is not None or not names or any(name in self._names for name in names):
            self.conflicts.add(metric.name)
            return None
        self._names.update(dict.fromkeys(names, metric.name))
        family = self._families[metric.name] = Family(metric)
        return family


_CHILDREN: Final[dict[str, type[Child]]] = {
    "counter": CounterChild,
    "gauge": GaugeChild,
    "summary": SummaryChild,
    "histogram": HistogramChild,
}
_MERGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {"sum": sum, "min": min, "max": max}


def _sum(parts: list[tuple[Entry, Metric]], field: str) -> float:
    ranges = [(entry, getattr(metric, field)) for entry, metric in parts]
    return sum((sum(entry.totals[slice(*columns)]) for entry, columns in ranges if columns is not None), 0.0)


def metric_name(name: str) -> str:
    """Return *name* as the page has it. The library lets a newline at the end pass, which would end the line."""
    return str(escape_metric_name(name.replace("\n", "_")))


def label_name(name: str) -> str:
    """Return *name* as the page has it; see `metric_name`."""
    return str(escape_label_name(name.replace("\n", "_")))


@cache
def _possible(labelnames: tuple[str, ...], typ: str) -> bool:
    own = ("le",) if typ == "histogram" else ()
    shown = {label_name(name) for name in (*labelnames, *own)}
    reserved = any(not name or name.startswith("__") for name in shown)
    return len(shown) == len(labelnames) + len(own) and not reserved


def _bound(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def _first(pair: tuple[float, float]) -> float:
    return pair[0]
