"""
The figures of one collection that a person looks at, in few objects: several of them are kept to compare.

1. What is not known is None or missing, never 0.
2. Of a request only the labels method, route and status are looked at, by whichever names WSGI_PROM_NAMES gives them: series that
   differ by others are added up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Final, NamedTuple

from wsgi_prom import metrics
from wsgi_prom.live.durations import Durations, of_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.families import Families, Family
    from wsgi_prom.metrics import Names
    from wsgi_prom.server.workers import WorkerState

Samples = list[tuple[dict[str, str], float]]

# The metrics of which the samples are needed as they are.
_PLAIN: Final = frozenset(
    name
    for name, _ in (
        metrics.APP_INFO, metrics.SERVER_INFO, metrics.TARGET_INFO, metrics.BUILD_INFO, metrics.DIRECTORY_READABLE,
        metrics.WORKERS, metrics.WORKER_CAPACITY, metrics.WORKER_BUSY, metrics.WORKER_REQUESTS, metrics.WORKER_START,
        metrics.REQUEST_AGE, metrics.WORKER_EXITS, metrics.RELOADS,
        metrics.LISTEN_QUEUE, metrics.LISTEN_QUEUE_LIMIT, metrics.LISTEN_DROPS,
        metrics.PROCESS_CPU, metrics.PROCESS_RESIDENT, metrics.PROCESS_START,
    )
)  # fmt: skip


class RouteKey(NamedTuple):
    """A method and a route, by which requests are told apart."""

    method: str
    route: str


@dataclass
class Route:
    """
    The requests of a route, and those that failed, with a status of 500 or more; *start* is since when they are counted, in
    seconds since the epoch, 0 if unknown.
    """

    requests: float = 0.0
    errors: float = 0.0
    start: float = 0.0
    durations: Durations | None = None


class Process(NamedTuple):
    """What a process uses: *cpu* seconds so far, *resident* bytes; *started* is in seconds since the epoch."""

    cpu: float | None = None
    resident: float | None = None
    started: float | None = None


@dataclass
class Figures:
    """
    A reading at a *clock* (time.monotonic) and a *time* (time.time), both in seconds.

    *samples* are those of some metrics, by the metric's name without `_total`. *processes* have a slot's number, empty for a
    process without one, and a role. *busy* are the seconds that the requests of each worker took while it was followed
    (`comparison.follow`). *measured* are the metrics that there are: name, type and help. Readings of another *beginning* are of
    another server, and not compared.
    """

    clock: float
    time: float
    routes: dict[RouteKey, Route] = field(default_factory=dict)
    in_progress: float | None = None
    samples: dict[str, Samples] = field(default_factory=dict)
    states: dict[str, WorkerState] = field(default_factory=dict)
    processes: dict[tuple[str, str], Process] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    measured: list[tuple[str, str, str]] = field(default_factory=list)
    beginning: int = 0

    def by_label(self, metric: tuple[str, str], label: str) -> dict[str, float]:
        """Return the values of a *metric* by one of its labels."""
        return {labels.get(label, ""): value for labels, value in self.samples.get(metric[0], ())}

    def value(self, metric: tuple[str, str]) -> float | None:
        """Return the value of a *metric* that has one sample, None if it is not there."""
        found = self.samples.get(metric[0])
        return found[0][1] if found else None


def figures(
    clock: float,
    time: float,
    families: Families,
    others: Iterable[Metric],
    states: Iterable[WorkerState] = (),
) -> Figures:
    """Return the figures of *families*, of *others* beside them, and of the workers' *states*."""
    reading = Figures(clock, time, states={state.name: state for state in states})
    known = {family.name: family for family in families}
    _add_requests(reading, known)
    for family in known.values():
        reading.measured.append((family.name, family.type, family.help))
        if family.name in _PLAIN:
            reading.samples[family.name] = [
                (dict(labels), value) for _, labels, value, _ in _samples(family) if isfinite(value)
            ]
    for metric in others:
        if metric.name not in known:
            reading.measured.append((metric.name, metric.type, metric.documentation))
        if metric.name in _PLAIN:
            reading.samples.setdefault(metric.name, []).extend(
                (sample.labels, float(sample.value)) for sample in metric.samples if isfinite(sample.value)
            )
    _add_processes(reading)
    return reading


def _samples(family: Family) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float, float]]:
    """Yield name, labels, value and start time of each sample of a *family* that has one for each label set."""
    values = iter(family.values)
    for (labels, shape), start in zip(family.children, family.starts, strict=True):
        for name, more in shape:
            yield name, labels + more, next(values), start


def _add_requests(reading: Figures, known: dict[str, Family]) -> None:
    durations: dict[RouteKey, Durations | None] = {}
    for counted in _counters(known.values()):
        prefix = counted.name.removesuffix(metrics.REQUESTS[0])
        own = set().union(*counted.labelnames)
        # More than one where middlewares have other names, by their keyword.
        for names in metrics.NAMES.values():
            if not {names.method, names.route, names.status} <= own:
                continue
            _add_counts(reading, counted, names)
            timed = known.get(prefix + names.of(metrics.DURATION))
            if timed is not None and timed.type == "histogram":
                _add_durations(durations, timed, names)
            gauge = known.get(prefix + names.of(metrics.IN_PROGRESS))
            if gauge is not None and gauge.values and isfinite(sum(gauge.values)):
                reading.in_progress = (reading.in_progress or 0.0) + sum(gauge.values)
    for key, value in durations.items():
        reading.routes.setdefault(key, Route()).durations = value


def _counters(families: Iterable[Family]) -> list[Family]:
    """
    Return the counters of requests: those of this package, of whichever prefixes (WSGI_PROM_PREFIX); without one, a counter of
    the application's own with the name.
    """
    name, told = metrics.REQUESTS
    counters = [family for family in families if family.type == "counter" and family.name.endswith(name)]
    # An application may count the requests that it sends: client_http_requests_total.
    return [family for family in counters if family.help == told] or [
        family for family in counters if family.name == name
    ]


def _add_counts(reading: Figures, counted: Family, names: Names) -> None:
    for _, labels, value, start in _samples(counted):
        if not isfinite(value):
            continue  # a metric of the application's own that has the name
        named = dict(labels)
        if names.status not in named:
            continue  # it has other names
        route = reading.routes.setdefault(_key(named, names), Route())
        route.requests += value
        if named[names.status].startswith("5"):
            route.errors += value
        if start and not 0 < route.start < start:
            route.start = start


def _key(labels: dict[str, str], names: Names) -> RouteKey:
    return RouteKey(labels.get(names.method, ""), labels.get(names.route, "") or metrics.UNMATCHED)


def _add_durations(by_route: dict[RouteKey, Durations | None], family: Family, names: Names) -> None:
    """Add to *by_route* the durations of *family*, None where their bounds differ."""
    values = family.values
    at = 0
    # Label sets share their shapes, of which each begins with the buckets in the order of their bounds.
    all_bounds: dict[int, tuple[float, ...]] = {}
    for labels, shape in family.children:
        bounds = all_bounds.get(id(shape))
        if bounds is None:
            bounds = all_bounds[id(shape)] = tuple([float(more[0][1]) for _, more in shape if more])
        middle, end = at + len(bounds), at + len(shape)
        rest = zip(shape[len(bounds) :], values[middle:end], strict=True)
        sums = [value for (name, _), value in rest if name.endswith("_sum")]
        durations = of_counts(bounds, values[at:middle], sum(sums)) if sums else None
        at = end
        named = dict(labels)
        key = _key(named, names)
        if key in by_route:
            before = by_route[key]
            by_route[key] = before.plus(durations) if before and durations else None
        else:
            by_route[key] = durations


def _add_processes(reading: Figures) -> None:
    parts: dict[tuple[str, str], dict[str, float]] = {}
    for field_name, metric in (
        ("cpu", metrics.PROCESS_CPU),
        ("resident", metrics.PROCESS_RESIDENT),
        ("started", metrics.PROCESS_START),
    ):
        for labels, value in reading.samples.pop(metric[0], ()):
            parts.setdefault((labels.get("worker", ""), labels.get("role", "")), {})[field_name] = value
    reading.processes = {key: Process(**values) for key, values in parts.items()}
