"""
The label sets of a family: which samples each type of metric has, and how their values follow from the sums of its rows.

Each child is made of one or more rows: of the schema of the requests, of the application's own, of the client library's files.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from itertools import accumulate, chain
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from prometheus_client.utils import floatToGoString

from wsgi_prom.merge.names import distinct, without_pid
from wsgi_prom.store import in_progress, text_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from wsgi_prom.merge.sums import Sums
    from wsgi_prom.store.schemas import Columns, Metric
    from wsgi_prom.store.text_format import Text

Labels = tuple[tuple[str, str], ...]
# The samples of a child: the name of each, and its labels beside the child's own. Children with the same samples share it.
Shape = tuple[tuple[str, Labels], ...]


class Child:
    """One label set of a family, and the *shape* of its samples."""

    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        self._name = name
        self._sums = sums
        self.labels = labels
        self.shape: Shape = ()
        # The numbers of its rows.
        self.rows: list[int] = []

    def add(self, number: int, metric: Metric) -> None:
        """Add row *number*, of which *metric* says what the columns mean."""
        raise NotImplementedError

    def show(self, number: int, _metric: Metric) -> None:
        """Show this label set at 0 because of row *number*, which is of another one."""
        self.rows.append(number)

    def start(self) -> float:
        """Return since when it counts: the least start time of its rows, 0 if none is known."""
        times = self._sums.start_times()
        return min([times[number] for number in self.rows if times[number]], default=0.0)

    def values(self) -> Sequence[float]:
        """Return a value for each of the samples. A gauge brings its shape up to date as well."""
        raise NotImplementedError

    def exemplars(self) -> Sequence[Text | None]:
        """Return the exemplar of each of the samples, or nothing. After `values`, and only where the sums have texts."""
        return ()

    def _columns(self, number: int, columns: Columns | None) -> list[slice]:
        first = self._sums.firsts[number] + 1
        return [slice(first + columns[0], first + columns[1])] if columns else []

    def _sum(self, parts: list[slice]) -> float:
        totals = self._sums.totals
        if len(parts) == 1:
            return sum(totals[parts[0]], 0.0)
        return sum([sum(totals[part]) for part in parts], 0.0)


class CounterChild(Child):
    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        super().__init__(name, labels, sums)
        self.shape = _shape(name, ("_total",))
        self._count: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._count += self._columns(number, metric.count)

    def values(self) -> Sequence[float]:
        return (self._sum(self._count),)

    def exemplars(self) -> Sequence[Text | None]:
        text = latest(self._sums.texts, *[range(part.start, part.stop) for part in self._count])
        # The buckets of a histogram are a counter too, of 1 for each observation.
        buckets = any(part.stop - part.start > 1 for part in self._count)
        return (text._replace(value=1.0) if text and buckets else text,)


class SummaryChild(Child):
    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        super().__init__(name, labels, sums)
        self.shape = _shape(name, ("_count", "_sum"))
        self._count: list[slice] = []
        self._less: list[slice] = []
        self._total: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._count += self._columns(number, metric.count)
        self._less += self._columns(number, metric.less)
        self._total += self._columns(number, metric.total)

    def values(self) -> Sequence[float]:
        return self._sum(self._count) - self._sum(self._less), self._sum(self._total)


class HistogramChild(Child):
    """Rows with different bounds (two versions of an application during a reload) are merged bound by bound."""

    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        super().__init__(name, labels, sums)
        self._bounds: tuple[float, ...] = ()
        self._alike = True
        self._buckets: list[tuple[slice, tuple[float, ...]]] = []
        self._total: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._total += self._columns(number, metric.total)
        self._buckets += [(columns, metric.bounds) for columns in self._columns(number, metric.buckets)]
        self._extend(metric)

    def show(self, number: int, metric: Metric) -> None:
        super().show(number, metric)
        self._extend(metric)

    def _extend(self, metric: Metric) -> None:
        """Have the bounds of *metric* too."""
        if metric.bounds != self._bounds:
            self._bounds = tuple(sorted({*self._bounds, *metric.bounds}))
            self._alike = all(bounds == self._bounds for _, bounds in self._buckets)
            # Without +Inf, nothing is shown: a client library's file, in which the sum comes before the buckets, or damage.
            whole = self._bounds[-1:] == (float("inf"),)
            # OpenMetrics has no sum beside a negative bound, nor has the client library.
            suffixes = ("_count", "_sum") if self._bounds[0] >= 0 else ("_count",)
            self.shape = _shape(self._name, suffixes, self._bounds) if whole else ()

    def values(self) -> Sequence[float]:
        if not self.shape:
            return ()
        totals = self._sums.totals
        if not self._alike or not self._buckets:
            counts: Iterable[float] = self._by_bound()
        elif len(self._buckets) == 1:
            counts = totals[self._buckets[0][0]]
        else:
            counts = map(sum, zip(*[totals[columns] for columns, _ in self._buckets], strict=True))
        values = list(accumulate(counts))
        # The count is the last bucket by definition: they cannot disagree.
        values.append(values[-1])
        if self._bounds[0] >= 0:
            values.append(self._sum(self._total))
        return values

    def exemplars(self) -> Sequence[Text | None]:
        texts = self._sums.texts
        by_bound: dict[float, list[int]] = {bound: [] for bound in self._bounds if self.shape}
        for columns, bounds in self._buckets:
            for at, bound in enumerate(bounds, columns.start):
                if at in texts and bound in by_bound:
                    by_bound[bound].append(at)
        others = len(self.shape) - len(by_bound)
        return [*(latest(texts, columns) for columns in by_bound.values()), *[None] * others]

    def _by_bound(self) -> Iterable[float]:
        counts = dict.fromkeys(self._bounds, 0.0)
        for columns, bounds in self._buckets:
            for bound, count in zip(bounds, self._sums.totals[columns], strict=True):
                counts[bound] += count
        return counts.values()


class GaugeChild(Child):
    """A gauge, by the multiprocess mode of its first row: a sample for each process that shows it, or one for all."""

    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        super().__init__(name, labels, sums)
        self._mode = ""

    def add(self, _number: int, metric: Metric) -> None:
        if not self._mode:
            self._mode = metric.mode
            if self._mode.endswith("all"):
                self.labels = without_pid(self.labels)

    def values(self) -> Sequence[float]:
        live, mode = self._mode.startswith("live"), self._mode.removeprefix("live")
        processes = chain.from_iterable(map(self._sums.shown, self.rows))
        # The value, and the second column: whether the process has set the gauge, or when. Rows of a sum have none.
        shown = [
            (pid, columns[0], columns[1] if len(columns) > 1 else 1.0)
            for pid, alive, columns in processes
            if alive or not live
        ]
        if mode == "starts":
            shown = [(pid, float(in_progress.number(value)), when) for pid, value, when in shown]
            mode = "sum"
        if mode != "sum":
            # As in the client library: the most recent one that was never set has the time 0 and is not shown.
            shown = [setting for setting in shown if setting[2] > 0]
        if mode == "all":
            by_pid = {pid: value for pid, value, _ in shown}
            self.shape = tuple([(self._name, (("pid", pid),)) for pid in by_pid])
            return list(by_pid.values())
        self.shape = _shape(self._name, ("",)) if shown else ()
        if not shown:
            return ()
        if mode == "mostrecent":
            return (max(shown, key=lambda setting: setting[2])[1],)
        return (MERGES[mode](value for _, value, _ in shown),)


class InfoChild(Child):
    """An Info: what any process has set last, as labels beside its own. Without those if nobody has set it, as in the library."""

    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        super().__init__(name, labels, sums)
        self._own = labels
        self._times: list[slice] = []

    def add(self, number: int, metric: Metric) -> None:
        self._times += self._columns(number, metric.count)

    def values(self) -> Sequence[float]:
        text = latest(self._sums.texts, *[range(time.start, time.stop) for time in self._times])
        if text is None and not self._sum(self._times):
            self.labels, self.shape = self._own, _shape(self._name, ("_info",))
            return (1.0,)
        if text is None or not text.text:  # it was set, and what to is not known: lost, or too long
            self.shape = ()
            return ()
        self.labels = tuple(sorted(distinct((*self._own, *text_labels.load(text.text)))))
        self.shape = _shape(self._name, ("_info",))
        return (1.0,)


class StatesChild(Child):
    """An Enum: the state that any process has set last, also one that has ended. The first one if nobody has set any."""

    def __init__(self, name: str, labels: Labels, sums: Sums) -> None:
        super().__init__(name, labels, sums)
        self._states: dict[int, tuple[str, ...]] = {}

    def add(self, number: int, metric: Metric) -> None:
        self._states[number] = metric.states

    def values(self) -> Sequence[float]:
        # Rows differ in their states where two versions of an application run during a reload.
        settings = [
            (when, states, ordinal)
            for number, states in self._states.items()
            for _, _, (ordinal, when) in self._sums.shown(number)
            if 0 <= ordinal < len(states)
        ]
        if not settings:
            self.shape = ()
            return ()
        _, states, ordinal = max(settings, key=itemgetter(0))
        self.shape = tuple([(self._name, ((self._name, state),)) for state in states])
        return [float(number == int(ordinal)) for number in range(len(states))]


def latest(texts: Mapping[int, Text], *columns: Iterable[int]) -> Text | None:
    """Return the latest of *texts* that is of one of *columns*."""
    candidates = [texts[at] for some in columns for at in some if at in texts]
    return max(candidates, key=lambda text: text.time, default=None)


def _known(choose: Callable[[list[float]], float], values: Iterable[float]) -> float:
    """Return what *choose* returns of *values* without NaN, as Prometheus' own min() and max(); NaN if there is nothing else."""
    numbers = list(values)
    return choose([value for value in numbers if not math.isnan(value)] or numbers)


MERGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    "sum": sum,
    "min": partial(_known, min),
    "max": partial(_known, max),
}
CHILDREN: Final[dict[str, type[Child]]] = {
    "counter": CounterChild,
    "gauge": GaugeChild,
    "summary": SummaryChild,
    "histogram": HistogramChild,
    "info": InfoChild,
    "stateset": StatesChild,
}


@lru_cache(maxsize=1024)
def _shape(name: str, suffixes: tuple[str, ...], bounds: tuple[float, ...] = ()) -> Shape:
    texts = [str(floatToGoString(bound)) for bound in bounds]  # type: ignore[no-untyped-call]
    buckets = [(f"{name}_bucket", (("le", text),)) for text in texts]
    return (*buckets, *((name + suffix, ()) for suffix in suffixes))
