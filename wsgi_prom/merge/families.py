"""
What a scrape shows: the families, and which rows each of their children is made of.

The objects live from scrape to scrape. A child whose figures did not change keeps the text that was rendered of it.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client import metrics_core as core
from prometheus_client.openmetrics.exposition import escape_label_name, escape_metric_name

from wsgi_prom.merge.children import CHILDREN, GaugeChild

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsgi_prom.merge.children import Child, Forms, Labels
    from wsgi_prom.merge.sums import Sums
    from wsgi_prom.store.file_format import Metric, Schema

    # A family that a schema's rows have a part in, the metric, and its labels: name and position.
    Plan = tuple["Family", Metric, list[tuple[str, int]]]

_SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "summary": ("_count", "_sum"),
    "histogram": ("_bucket", "_count", "_sum"),
}


class Family:
    """A metric family of the page: `# HELP`, `# TYPE`, and its children."""

    def __init__(self, metric: Metric, sums: Sums) -> None:
        self.name = metric.name
        self.type = metric.type
        self.help = metric.help
        self._sums = sums
        self._forms: Forms = {}
        self._children: dict[Labels, Child] = {}

    def child(self, labels: Labels) -> Child:
        child = self._children.get(labels)
        if child is None:
            child = CHILDREN[self.type](self.name, labels, self._forms, self._sums)
            self._children[labels] = child
        return child

    def children(self) -> Iterable[Child]:
        return self._children.values()


class Families:
    """All families of a page, by name, made of the rows of *sums*."""

    def __init__(self, sums: Sums) -> None:
        # Metrics left out since another of the same name has another type, or samples of the same name.
        self.conflicts: set[str] = set()
        self._sums = sums
        self._families: dict[str, Family] = {}
        self._names: dict[str, str] = {}
        # By the schema's identity, since a hash of it costs more than all the rest. The index keeps them.
        self._plans: dict[int, list[Plan]] = {}
        self._met = 0
        self._children: dict[int, list[Child]] = {}  # by row
        self._gauges: dict[Child, None] = {}

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

    def update(self) -> None:
        """Have children for the rows that were met, and those made again whose sums changed."""
        sums = self._sums
        for number in sums.met[self._met :]:
            self._add(number)
        self._met = len(sums.met)
        for number in sums.changed:
            for child in self._children[number]:
                child.stale()
        if sums.peopled:
            # A gauge changes with the life of its process too, not only with its value.
            for child in self._gauges:
                child.stale()

    def _add(self, number: int) -> None:
        schema, labelvalues = self._sums.index.rows[number]
        plans = self._plans.get(id(schema))
        if plans is None:
            plans = self._plans[id(schema)] = list(self._plan(schema))
        self._children[number] = children = []
        for family, metric, names in plans:
            child = family.child(tuple([(name, labelvalues[n]) for name, n in names]))
            child.add(number, metric)
            children.append(child)
            if isinstance(child, GaugeChild):
                self._gauges[child] = None

    def _plan(self, schema: Schema) -> Iterator[Plan]:
        for metric in schema.metrics:
            family = self._family(metric, schema.labelnames)
            if family is not None:
                yield family, metric, sorted((schema.labelnames[n], n) for n in metric.labels)

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
        family = self._families[metric.name] = Family(metric, self._sums)
        return family


@lru_cache(maxsize=1024)
def metric_name(name: str) -> str:
    """Return *name* as the page has it. The library lets a newline at the end pass, which would end the line."""
    return str(escape_metric_name(name.replace("\n", "_")))


@lru_cache(maxsize=1024)
def label_name(name: str) -> str:
    """Return *name* as the page has it; see `metric_name`."""
    return str(escape_label_name(name.replace("\n", "_")))


@cache
def _possible(labelnames: tuple[str, ...], typ: str) -> bool:
    own = ("le",) if typ == "histogram" else ()
    shown = {label_name(name) for name in (*labelnames, *own)}
    reserved = any(not name or name.startswith("__") for name in shown)
    return len(shown) == len(labelnames) + len(own) and not reserved
