"""
What a server's processes take: CPU time, memory, descriptors, threads. psutil reads it.

1. A series is a slot and a role, never a pid: who takes the place of an ended worker goes on with its series. Processes without a
   slot that have the same role are one series, with the sum of their figures.
2. A counter adds what each process has used since it was last seen. So it never goes back while the exporter lives. What a
   process used between the last look at it and its end is in no figure of its own.
3. A figure that cannot be read is absent: of a process that has ended, or that this user may not look at.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics
from wsgi_prom.server.members import Members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.server.members import Member

    Series = tuple[str, str]  # the slot's number, or nothing, and the role

# How much of its CPU time a worker that ends takes with it, at most. 32 processes take 2 ms.
_LOOK_SECONDS: Final = 2.0
# The kernel walks through all pages of a process for its PSS: 1 to 3 ms for 60 MB. And of its status file, which takes as long as
# any two others, psutil uses one line: the number of threads.
_SLOW_SECONDS: Final = 60.0

_COUNTERS: Final = (metrics.PROCESS_CPU, metrics.PROCESS_CHILDREN_CPU)
_GAUGES: Final = (
    metrics.PROCESS_RESIDENT,
    metrics.PROCESS_PROPORTIONAL,
    metrics.PROCESS_VIRTUAL,
    metrics.PROCESS_OPEN_FDS,
    metrics.PROCESS_MAX_FDS,
    metrics.PROCESS_THREADS,
    metrics.PROCESS_START,
)


class Processes:
    """
    The processes of the server that uses the directory *path*. With *daemons*, those that its master runs too.

    Raises ImportError without psutil. `families` is not for two threads at once; `sample` is for another one.
    *clock* returns seconds: tests give it.
    """

    def __init__(
        self, path: Path, *, daemons: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._psutil = import_module("psutil")
        # What psutil raises for a process that is ending, or hidden: the others are shown.
        self._lost = (self._psutil.Error, OSError, ValueError)
        self._members = Members(self._psutil, path, daemons=daemons)
        self._clock = clock
        self._present: list[Member] = []
        self._totals = Totals()
        # By process: when the figures were read that take long, and these by name.
        self._slow: dict[Any, tuple[float, dict[str, float]]] = {}
        # Over what both threads change.
        self._lock = threading.Lock()

    def sample(self, end: threading.Event) -> None:
        """Keep up with processes that may end before the next scrape, and read what takes long, until *end* is set."""
        while not end.wait(_LOOK_SECONDS):
            with suppress(Exception):  # a scrape logs it
                self.look()

    def look(self) -> None:
        """Do once what `sample` does."""
        self._members.look_for_daemons()
        now = self._clock()
        for member in self._present:
            process = member.process
            try:
                if process.is_running():  # and no other that has its pid now
                    self._use(member)
                    read = self._slow.get(process)
                    if read is None or now - read[0] >= _SLOW_SECONDS:
                        figures = self._slow_figures(process)
                        with self._lock:
                            self._slow[process] = now, figures
            except self._lost:
                continue

    def families(self, slots: Iterable[Reading]) -> list[Metric]:
        """Return the metrics of the processes that hold *slots*, and of those without one."""
        found: dict[Series, dict[str, float]] = {}
        members = self._members.find(slots)
        for member in members:
            try:
                figures = self._figures(member)
            except self._lost:  # it has just ended
                continue
            _add(found.setdefault((member.worker, member.role), {}), figures)
        self._present = members
        present = {member.process for member in members}
        with self._lock:
            self._totals.forget(present)
            self._slow = {process: read for process, read in self._slow.items() if process in present}
            totals = {series: list(total) for series, total in self._totals.items()}
        return list(_families(found, totals))

    def _figures(self, member: Member) -> dict[str, float]:
        """Return the gauges of one process by name, and count what it has used. Raises psutil.Error for one that has ended."""
        process, psutil = member.process, self._psutil
        memory = process.memory_info()
        if not memory.rss:
            raise psutil.NoSuchProcess(process.pid)  # a zombie
        self._use(member)
        found = {
            metrics.PROCESS_RESIDENT[0]: memory.rss,
            metrics.PROCESS_VIRTUAL[0]: memory.vms,
            metrics.PROCESS_START[0]: process.create_time(),
            **self._slow.get(process, (0.0, {}))[1],
        }
        try:
            found[metrics.PROCESS_OPEN_FDS[0]] = process.num_fds()
            found[metrics.PROCESS_MAX_FDS[0]] = process.rlimit(psutil.RLIMIT_NOFILE)[0]
        except psutil.AccessDenied:  # another user's, or one that has changed its user
            pass
        return found

    def _use(self, member: Member) -> None:
        with self._lock:
            times = member.process.cpu_times()
            used = times.user + times.system, times.children_user + times.children_system
            self._totals.add((member.worker, member.role), member.process, used)

    def _slow_figures(self, process: Any) -> dict[str, float]:
        found = {metrics.PROCESS_THREADS[0]: process.num_threads()}
        try:
            pss = process.memory_full_info().pss
        except self._psutil.AccessDenied:  # as above
            return found
        return found | {metrics.PROCESS_PROPORTIONAL[0]: pss} if pss else found


class Totals(dict["Series", list[float]]):
    """Counters by series, which go on while processes replace each other."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Any, tuple[float, ...]] = {}

    def add(self, series: Series, process: Any, used: tuple[float, ...]) -> None:
        """Count for *series* what *process* has used since it was last seen; all of it the first time."""
        before = self._seen.get(process, (0.0,) * len(used))
        total = self.setdefault(series, [0.0] * len(used))
        for number, (now, then) in enumerate(zip(used, before, strict=True)):
            total[number] += max(now - then, 0.0)
        self._seen[process] = used

    def forget(self, present: set[Any]) -> None:
        """Forget processes that have ended. Those of *present* have not."""
        for process in [seen for seen in self._seen if seen not in present and not seen.is_running()]:
            del self._seen[process]


def _add(total: dict[str, float], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        if name == metrics.PROCESS_START[0]:
            total[name] = max(value, total.get(name, 0.0))
        else:
            total[name] = total.get(name, 0.0) + value


def _families(found: dict[Series, dict[str, float]], totals: dict[Series, list[float]]) -> Iterator[Metric]:
    labels = {series: _labels(*series) for series in totals}  # a series of gauges is one of counters
    for number, entry in enumerate(_COUNTERS):
        counter = CounterMetricFamily(*entry)
        for series, total in totals.items():
            # Of clock ticks, whose sums have no more digits.
            counter.add_sample(f"{entry[0]}_total", labels[series], round(total[number], 3))
        yield counter
    for entry in _GAUGES:
        gauge = GaugeMetricFamily(*entry)
        for series, figures in found.items():
            if entry[0] in figures:
                gauge.add_sample(entry[0], labels[series], figures[entry[0]])
        yield gauge


def _labels(worker: str, role: str) -> dict[str, str]:
    return {"worker": worker, "role": role} if worker else {"role": role}
