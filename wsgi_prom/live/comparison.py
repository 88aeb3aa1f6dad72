"""
Compare two readings for what a person is shown: rates, quantiles and shares of the time between them.

1. A rate is never negative: a counter that begins again counts from 0, as in Prometheus' `rate`.
2. A series that was not there before counts from 0 as well, unless it says that it is older than the reading before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_prom import metrics
from wsgi_prom.live.durations import together
from wsgi_prom.live.figures import Process, Route
from wsgi_prom.live.view import Capacity, ExitRow, QueueRow, RouteRow, Server, Totals, View, WorkerRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wsgi_prom.live.durations import Durations
    from wsgi_prom.live.figures import Figures
    from wsgi_prom.live.view import Latency


def view(before: Figures | None, after: Figures) -> View:
    """Return the view of *after*, with the rates since *before*; without it, with the quantiles of all requests so far."""
    return _Comparison(before, after).view()


def follow(before: Figures, after: Figures) -> None:
    """
    Set how long the workers have been busy in *after*, a reading that follows *before*.

    A request's seconds are counted when it ends. Those of the requests in progress are added, at both times. Of requests that
    overlap nobody knows when each began: then the number of requests in progress, at both times, stands for the time between.
    """
    seconds = after.clock - before.clock
    ended_before, ended = (reading.by_label(metrics.WORKER_BUSY, "worker") for reading in (before, after))
    for name, state in after.states.items():
        earlier = before.states.get(name)
        if earlier is not None and earlier.pid != state.pid:
            earlier = None
        total = before.busy.get(name, 0.0)
        counted = ended.get(name, 0.0) - ended_before.get(name, 0.0)
        if state.ages is not None and (earlier is None or earlier.ages is not None):
            more = counted + sum(state.ages) - sum(earlier.ages or () if earlier else ())
        elif state.in_progress is not None:
            then = earlier.in_progress if earlier else 0
            more = seconds * (state.in_progress + (then or 0)) / 2
        elif name in ended:
            more = counted
        else:
            continue
        after.busy[name] = total + max(more, 0.0)


def rates(before: Figures, after: Figures) -> Rates:
    """Return only the rates and the load of `view`, in a fraction of the time."""
    return _Comparison(before, after).rates()


class Rates(NamedTuple):
    """The requests and errors per second, None if there are no requests at all, and how full the server was."""

    per_second: float | None
    errors_per_second: float | None
    capacity: Capacity


class _Comparison:
    def __init__(self, before: Figures | None, after: Figures) -> None:
        self._before = before
        self._after = after
        self._seconds = None if before is None else max(after.clock - before.clock, 1e-3)

    def view(self) -> View:
        routes, durations = self._routes()
        workers = self._workers()
        return View(
            time=self._after.time,
            seconds=self._seconds,
            readable=self._after.value(metrics.DIRECTORY_READABLE) != 0,
            server=_server(self._after),
            requests=self._totals(routes, durations),
            capacity=self._capacity(row.load for row in workers),
            queues=self._queues(),
            routes=routes,
            workers=workers,
            exits=self._exits(),
        )

    def rates(self) -> Rates:
        requests, errors, known = 0.0, 0.0, False
        for (method, name), route in self._after.routes.items():
            earlier = self._earlier(method, name, route)
            if earlier is not None:
                known = True
                requests += _increase(earlier.requests, route.requests)
                errors += _increase(earlier.errors, route.errors)
        capacity = self._capacity(map(self._load, self._after.states))
        if not known or self._seconds is None:
            return Rates(None, None, capacity)
        return Rates(requests / self._seconds, errors / self._seconds, capacity)

    def _routes(self) -> tuple[list[RouteRow], list[Durations]]:
        """Return the rows of the routes, and the durations of those that have any."""
        rows, timed = [], []
        for (method, name), route in self._after.routes.items():
            earlier = self._earlier(method, name, route)
            row = RouteRow(method=method, route=name, requests=route.requests, errors=route.errors)
            durations = route.durations  # None of a session of a WebSocket
            if earlier is not None and self._seconds is not None:
                requests = _increase(earlier.requests, route.requests)
                errors = _increase(earlier.errors, route.errors)
                row.per_second, row.errors_per_second = requests / self._seconds, errors / self._seconds
                row.error_share = errors / requests if requests else None
                durations = durations and durations.since(earlier.durations)
            elif self._before is not None:
                durations = None
            if durations is not None:
                timed.append(durations)
                _set_latency(row, durations)
                row.time_share = durations.seconds
            rows.append(row)
        total = sum([durations.seconds for durations in timed])
        for row in rows:
            row.time_share = row.time_share / total if total and row.time_share is not None else None
        return rows, timed

    def _earlier(self, method: str, name: str, route: Route) -> Route | None:
        """Return the *route* as it was before, None if that is not known."""
        if self._before is None:
            return None
        earlier = self._before.routes.get((method, name))  # type: ignore[call-overload]
        if earlier is None and 0 < route.start < self._before.time:
            # The route counted before, and the former reading did not have it.
            return None
        return earlier or Route()

    def _totals(self, rows: list[RouteRow], durations: list[Durations]) -> Totals:
        routes = self._after.routes
        total = Totals(in_progress=self._after.in_progress)
        if not routes:
            return total
        total.requests = sum([route.requests for route in routes.values()])
        total.errors = sum([route.errors for route in routes.values()])
        rates = [row.per_second for row in rows if row.per_second is not None]
        if rates:
            total.per_second = sum(rates)
            total.errors_per_second = sum([row.errors_per_second or 0.0 for row in rows])
            total.error_share = total.errors_per_second / total.per_second if total.per_second else None
        _set_latency(total, together(durations))
        return total

    def _workers(self) -> list[WorkerRow]:
        after = self._after
        names = sorted(after.states, key=_number)
        served = after.by_label(metrics.WORKER_REQUESTS, "worker")
        before = self._before.by_label(metrics.WORKER_REQUESTS, "worker") if self._before else {}
        started = after.by_label(metrics.WORKER_START, "worker")
        processes = {worker: (role, found) for (worker, role), found in after.processes.items() if worker}
        rows = []
        for name in names:
            state = after.states[name]
            row = WorkerRow(
                name, "worker", state.pid, state.state, max(state.ages, default=None) if state.ages else None
            )
            row.requests = served.get(name)
            if row.requests is not None and self._seconds is not None:
                row.per_second = _increase(before.get(name, 0.0), row.requests) / self._seconds
            row.load = self._load(name)
            role, process = processes.pop(name, ("", Process()))
            row.role = role or row.role
            self._set_process(row, role, process, started.get(name))
            rows.append(row)
        others = sorted(
            (key for key in after.processes if not key[0] or key[0] in processes),
            key=lambda key: (key[1], _number(key[0])),
        )
        for worker, role in others:
            row = WorkerRow(worker, role)
            self._set_process(row, role, after.processes[worker, role], None)
            rows.append(row)
        return rows

    def _set_process(self, row: WorkerRow, role: str, process: Process, started: float | None) -> None:
        row.resident_bytes = process.resident
        started = process.started if started is None else started
        row.age_seconds = None if started is None else max(self._after.time - started, 0.0)
        earlier = self._before and self._before.processes.get((row.worker, role))
        if earlier and earlier.cpu is not None and process.cpu is not None and self._seconds:
            row.cpu = _increase(earlier.cpu, process.cpu) / self._seconds

    def _load(self, worker: str) -> float | None:
        """Return how many requests a *worker* had in progress, on average."""
        now = self._after.busy.get(worker)
        if self._before is None or self._seconds is None or now is None:
            return None
        return (now - self._before.busy.get(worker, 0.0)) / self._seconds

    def _capacity(self, workers: Iterable[float | None]) -> Capacity:
        """Return how full the server is, by the load of each of the *workers*."""
        after = self._after
        found = Capacity(
            {state: int(value) for state, value in after.by_label(metrics.WORKERS, "state").items()},
            capacity=after.value(metrics.WORKER_CAPACITY),
            oldest_request_seconds=after.value(metrics.REQUEST_AGE),
            reloads=after.value(metrics.RELOADS),
        )
        loads = [load for load in workers if load is not None]
        if loads:
            found.load = sum(loads)
            if found.capacity:
                # Workers may have ended in the meantime.
                found.utilisation = min(found.load / found.capacity, 1.0)
        return found

    def _queues(self) -> list[QueueRow]:
        limits = self._after.by_label(metrics.LISTEN_QUEUE_LIMIT, "socket")
        drops = self._after.by_label(metrics.LISTEN_DROPS, "socket")
        earlier = self._before.by_label(metrics.LISTEN_DROPS, "socket") if self._before else {}
        return [
            QueueRow(name, length, limits.get(name), drops.get(name), _more(earlier, drops, name))
            for name, length in sorted(self._after.by_label(metrics.LISTEN_QUEUE, "socket").items())
        ]

    def _exits(self) -> list[ExitRow]:
        after = self._after.by_label(metrics.WORKER_EXITS, "reason")
        # A reason that was not there before has not counted before.
        before = dict.fromkeys(after, 0.0) if self._before else {}
        before |= self._before.by_label(metrics.WORKER_EXITS, "reason") if self._before else {}
        return [
            ExitRow(reason, count, _more(before, after, reason))
            for reason, count in sorted(after.items(), key=lambda item: (-item[1], item[0]))
        ]


def _increase(before: float, after: float) -> float:
    return after - before if after >= before else after


def _more(before: Mapping[str, float], after: Mapping[str, float], name: str) -> float | None:
    if name not in before or name not in after:
        return None
    return _increase(before[name], after[name])


def _set_latency(row: Latency, durations: Durations | None) -> None:
    if durations is None:
        return
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        found = durations.quantile(share)
        if found is not None:
            setattr(row, f"{name}_seconds", found.seconds)
            setattr(row, f"{name}_above", found.above)


def _number(worker: str) -> tuple[int, str]:
    return (int(worker) if worker.isdecimal() else -1), worker


def _server(after: Figures) -> Server:
    def labels(metric: tuple[str, str]) -> dict[str, str]:
        found = after.samples.get(metric[0])
        return found[0][0] if found else {}

    target, server, build = map(labels, (metrics.TARGET_INFO, metrics.SERVER_INFO, metrics.BUILD_INFO))
    # During a reload there are workers of two versions: the one that was told last is shown.
    info = after.samples.get(metrics.APP_INFO[0])
    application = info[-1][0] if info else {}
    pids = [found.get("pid", "") for found, _ in after.samples.get(metrics.TARGET_INFO[0], ())]
    return Server(
        application=target.get("application", "") or application.get("app", ""),
        application_version=application.get("version", ""),
        framework=application.get("framework", ""),
        python=application.get("python", ""),
        server=target.get("server", ""),
        server_version=server.get("version", ""),
        worker_class=server.get("worker_class", ""),
        pids=[int(pid) for pid in pids if pid.isdecimal()],
        directory=target.get("directory", ""),
        wsgi_prom=build.get("version", ""),
    )
