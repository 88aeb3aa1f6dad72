"""
The label sets of a family, and what each one's samples are: computed from the sums of the rows that it is made of.
"""

from __future__ import annotations

from itertools import accumulate, chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Sequence

    from wsgi_prom.merge.sums import Sums
    from wsgi_prom.store.file_format import Columns, Metric

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels]
Figures = tuple["list[float]", "Sequence[float]"]
Forms = dict[tuple[tuple[float, ...], bool], "Form"]  # by bounds, and whether there are labels


class Form:
    """
    The samples that children of a family have: each one's name, and labels beyond the child's own.

    *labelled* says whether the children have labels. *pieces* belongs to the renderer.
    """

    __slots__ = ("labelled", "pieces", "samples")

    def __init__(self, samples: Iterable[Sample] = (), *, labelled: bool = False) -> None:
        self.samples = tuple(samples)
        self.labelled = labelled
        self.pieces: list[str] | None = None


NO_FORM: Final = Form()


class Child:
    """
    One label set of a family: the names and labels of its samples (*shape*), and their *values*.

    *text* and *pairs* belong to the renderer: its lines, dropped here when they are no longer true, and its labels. *forms*
    are what the children of the family share.
    """

    __slots__ = ("_forms", "_name", "_sums", "form", "labels", "pairs", "text")

    def __init__(self, name: str, labels: Labels, forms: Forms, sums: Sums) -> None:
        self._name = name
        self._forms = forms
        self._sums = sums
        self.labels = labels
        self.form = NO_FORM
        self.pairs: str | None = None
        self.text: str | None = None

    @property
    def shape(self) -> tuple[Sample, ...]:
        return tuple((name, self.labels + more) for name, more in self.form.samples)

    @property
    def values(self) -> list[float]:
        counts, others = self.figures()
        return [*counts, *others]

    def figures(self) -> Figures:
        """Compute the values, in two parts: those that are counts, and what comes after them."""
        raise NotImplementedError

    def add(self, number: int, metric: Metric) -> None:
        """Let row *number* have a part in it, as its *metric* says."""
        raise NotImplementedError

    def stale(self) -> None:
        """Some sum of its rows changed."""
        self.text = None

    def _reform(self, suffixes: tuple[str, ...], bounds: tuple[float, ...] = ()) -> None:
        key = bounds, bool(self.labels)
        form = self._forms.get(key)
        if form is None:
            buckets = [(f"{self._name}_bucket", (("le", _bound(bound)),)) for bound in bounds]
            samples = [*buckets, *((self._name + suffix, ()) for suffix in suffixes)]
            form = self._forms[key] = Form(samples, labelled=bool(self.labels))
        if form is not self.form:
            self.form, self.text = form, None

    def _columns(self, number: int, columns: Columns | None) -> list[slice]:
        start = self._sums.index.starts[number]
        return [slice(start + columns[0], start + columns[1])] if columns else []

    def _sum(self, parts: list[slice]) -> float:
        totals = self._sums.totals
        if len(parts) == 1:
            return sum(totals[parts[0]], 0.0)
        return sum([sum(totals[part]) for part in parts], 0.0)


class CounterChild(Child):
    __slots__ = ("_count",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._count: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._count += self._columns(number, metric.count)
        self._reform(("_total",))

    def figures(self) -> Figures:
        return [self._sum(self._count)], ()


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

    def figures(self) -> Figures:
        count = self._sum(self._count) - self._sum(self._less) if self._less else self._sum(self._count)
        return [count], (self._sum(self._total),)


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
            self._reform(("_count", "_sum"), self._bounds)
        else:
            # A file of the client library's, which makes the sum first and then bucket by bucket; or a damaged one.
            self.form, self.text = NO_FORM, None

    def figures(self) -> Figures:
        if self.form is NO_FORM:
            return [], ()
        totals = self._sums.totals
        if not self._alike:
            counts: Iterable[float] = self._by_bound()
        elif len(self._buckets) == 1:
            counts = totals[self._buckets[0][0]]
        else:
            counts = map(sum, zip(*[totals[part] for part, _ in self._buckets], strict=True))
        values = list(accumulate(counts))
        # The count is the last bucket, by definition: they cannot disagree.
        values.append(values[-1])
        return values, (self._sum(self._total),)

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

    __slots__ = ("_kind", "_live", "_numbers", "_pids", "_values")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kind = ""
        self._live = False
        self._numbers: list[int] = []
        self._pids: tuple[str, ...] = ()
        self._values: list[float] = []

    def figures(self) -> Figures:
        return [], self._values

    def add(self, number: int, metric: Metric) -> None:
        if not self._numbers:
            self._live = metric.mode.startswith("live")
            self._kind = metric.mode.removeprefix("live")
            if self._kind == "all":
                # As in the client library: an application's own label of that name gives way.
                self.labels = tuple(pair for pair in self.labels if pair[0] != "pid")
        self._numbers.append(number)

    def stale(self) -> None:
        found = chain.from_iterable(map(self._sums.readings, self._numbers))
        readings = [(pid, columns) for pid, live, columns in found if live or not self._live]
        if self._kind == "all":
            by_pid = {pid: columns[0] for pid, columns in readings if columns[1]}
            values = list(by_pid.values())
            if self._pids != tuple(by_pid):
                self._pids, self.text = tuple(by_pid), None
                samples = [(self._name, (("pid", pid),)) for pid in by_pid]
                self.form = Form(samples, labelled=bool(self.labels))
        else:
            values = self._merged([columns for _, columns in readings])
            if values:
                self._reform(("",))
            else:
                self.form = NO_FORM
        if values != self._values:
            self._values, self.text = values, None

    def _merged(self, readings: list[array[float]]) -> list[float]:
        if self._kind == "mostrecent":
            # As in the client library: what was never set has the time 0 and is not shown.
            readings = [columns for columns in readings if columns[1] > 0]
            return [max(readings, key=itemgetter(1))[0]] if readings else []
        if self._kind != "sum":
            readings = [columns for columns in readings if columns[1]]
        return [_MERGES[self._kind]([columns[0] for columns in readings])] if readings else []


CHILDREN: Final[dict[str, type[Child]]] = {
    "counter": CounterChild,
    "gauge": GaugeChild,
    "summary": SummaryChild,
    "histogram": HistogramChild,
}
_MERGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {"sum": sum, "min": min, "max": max}


def _bound(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]
