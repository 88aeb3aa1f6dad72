"""
The label sets of a family, and what each one's samples are: computed from the sums of the blocks that it is made of.
"""

from __future__ import annotations

from itertools import accumulate, chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.storage.format import Columns, Metric
    from wsgi_prom.storage.sums import Sums

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels]


class Form:
    """
    The samples that children of a family have: each one's name, and labels beyond the child's own.

    The first *counts* of them are counts. *pattern* belongs to the renderer.
    """

    __slots__ = ("counts", "pattern", "samples")

    def __init__(self, samples: Iterable[Sample] = (), counts: int = 0) -> None:
        self.samples = tuple(samples)
        self.counts = counts
        self.pattern: str | None = None


NO_FORM: Final = Form()


class Child:
    """
    One label set of a family: the names and labels of its samples (*shape*), and their *values*.

    *text* and *template* belong to the renderer; they are dropped here when they are no longer true. *forms* are what
    the children of the family share, by bounds.
    """

    __slots__ = ("_forms", "_name", "_sums", "form", "labels", "template", "text")

    def __init__(self, name: str, labels: Labels, forms: dict[tuple[float, ...], Form], sums: Sums) -> None:
        self._name = name
        self._forms = forms
        self._sums = sums
        self.labels = labels
        self.form = NO_FORM
        self.template: str | None = None
        self.text: str | None = None

    @property
    def shape(self) -> tuple[Sample, ...]:
        return tuple((name, self.labels + more) for name, more in self.form.samples)

    @property
    def values(self) -> list[float]:
        raise NotImplementedError

    def add(self, number: int, metric: Metric) -> None:
        """Let block *number* have a part in it, as its *metric* says."""
        raise NotImplementedError

    def stale(self) -> None:
        """Some sum of its blocks changed."""
        self.text = None

    def _reform(self, suffixes: tuple[str, ...], bounds: tuple[float, ...] = ()) -> None:
        form = self._forms.get(bounds)
        if form is None:
            buckets = [(f"{self._name}_bucket", (("le", _bound(bound)),)) for bound in bounds]
            form = Form([*buckets, *((self._name + suffix, ()) for suffix in suffixes)], len(bounds) + 1)
            self._forms[bounds] = form
        if form is not self.form:
            self.form, self.template, self.text = form, None, None

    def _columns(self, number: int, columns: Columns | None) -> list[slice]:
        if columns is None:
            return []
        start = self._sums.index.starts[number]
        return [slice(start + columns[0], start + columns[1])]

    def _sum(self, columns: list[slice]) -> float:
        totals = self._sums.totals
        return sum([sum(totals[part]) for part in columns], 0.0)


class CounterChild(Child):
    __slots__ = ("_count",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._count: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._count += self._columns(number, metric.count)
        self._reform(("_total",))

    @property
    def values(self) -> list[float]:
        return [self._sum(self._count)]


class SummaryChild(Child):
    __slots__ = ("_count", "_less", "_total")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._count: list[slice] = []
        self._less: list[slice] = []
        self._total: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._count += self._columns(number, metric.count)
        self._less += self._columns(number, metric.less)
        self._total += self._columns(number, metric.total)
        self._reform(("_count", "_sum"))

    @property
    def values(self) -> list[float]:
        return [self._sum(self._count) - self._sum(self._less), self._sum(self._total)]


class HistogramChild(Child):
    """Parts with other bounds than the rest (two versions of an application at a reload) are merged bound by bound."""

    __slots__ = ("_alike", "_bounds", "_buckets", "_total")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._alike = True
        self._bounds: tuple[float, ...] = ()
        self._buckets: list[tuple[slice, tuple[float, ...]]] = []
        self._total: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._total += self._columns(number, metric.total)
        self._buckets += [(part, metric.bounds) for part in self._columns(number, metric.buckets)]
        if metric.bounds != self._bounds:
            self._bounds = tuple(sorted({*self._bounds, *metric.bounds}))
            self._alike = all(bounds == self._bounds for _, bounds in self._buckets)
        if self._bounds and self._bounds[-1] == float("inf"):
            # If not: a file of the client library's, which makes the sum first and then bucket by bucket.
            self._reform(("_count", "_sum"), self._bounds)

    @property
    def values(self) -> list[float]:
        if self.form is NO_FORM:
            return []
        totals = self._sums.totals
        if not self._alike:
            counts: Iterable[float] = self._by_bound()
        elif len(self._buckets) == 1:
            counts = totals[self._buckets[0][0]]
        else:
            counts = map(sum, zip(*[totals[part] for part, _ in self._buckets], strict=True))
        values = list(accumulate(counts))
        # The count is the last bucket, by definition: they cannot disagree.
        values += (values[-1], self._sum(self._total))
        return values

    def _by_bound(self) -> Iterable[float]:
        counts = dict.fromkeys(self._bounds, 0.0)
        for part, bounds in self._buckets:
            for bound, count in zip(bounds, self._sums.totals[part], strict=True):
                counts[bound] += count
        return counts.values()


class GaugeChild(Child):
    """
    A gauge, by its multiprocess mode: one series for each process that shows it, or one of them all.

    Its values are computed when something changed, and its text is kept if they are what they were.
    """

    __slots__ = ("_mode", "_numbers", "_shape", "_values")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._mode = ""
        self._numbers: list[int] = []
        self._shape: tuple[Sample, ...] = ()
        self._values: list[float] = []

    @property
    def shape(self) -> tuple[Sample, ...]:
        return self._shape

    @property
    def values(self) -> list[float]:
        return self._values

    def add(self, number: int, metric: Metric) -> None:
        self._mode = self._mode or metric.mode
        self._numbers.append(number)

    def stale(self) -> None:
        shape, values = self._compute()
        if shape != self._shape:
            self._shape, self.template, self.text = shape, None, None
        if values != self._values:
            self._values, self.text = values, None

    def _compute(self) -> tuple[tuple[Sample, ...], list[float]]:
        mode = self._mode
        found = chain.from_iterable(map(self._sums.readings, self._numbers))
        readings = [(pid, columns) for pid, live, columns in found if live or not mode.startswith("live")]
        kind = mode.removeprefix("live")
        if kind == "mostrecent":
            # As in the client library: what was never set has the time 0 and is not shown.
            timed = [(columns[1], columns[0]) for _, columns in readings if columns[1] > 0]
            values = [max(timed, key=itemgetter(0))[1]] if timed else []
        elif kind in _MERGES:
            if kind != "sum":
                readings = [(pid, columns) for pid, columns in readings if columns[1]]
            values = [_MERGES[kind](columns[0] for _, columns in readings)] if readings else []
        else:
            by_pid = {pid: columns for pid, columns in readings if columns[1]}
            # As in the client library: an application's own label of that name gives way.
            labels = tuple(pair for pair in self.labels if pair[0] != "pid")
            shape = tuple((self._name, (*labels, ("pid", pid))) for pid in by_pid)
            return shape, [columns[0] for columns in by_pid.values()]
        return ((self._name, self.labels),) * len(values), values


CHILDREN: Final[dict[str, type[Child]]] = {
    "counter": CounterChild,
    "gauge": GaugeChild,
    "summary": SummaryChild,
    "histogram": HistogramChild,
}
_MERGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {"sum": sum, "min": min, "max": max}


def _bound(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
