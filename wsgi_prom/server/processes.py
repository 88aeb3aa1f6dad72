"""
What a server's processes take: CPU time, memory, descriptors, threads.

1. A series is a slot and a role, never a pid: who takes the place of an ended worker goes on with its series. Processes without
   a slot that have the same role are one series, with the sum of their figures.
2. A counter adds what each process has used since it was last seen (totals.py). So it never goes back. What a process used
   between the last look at it and its end is in no figure of its own.
3. A figure that cannot be read is absent: of a process that has ended, or that this user may not look at.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom import metrics
from wsgi_prom.server.column import Column
from wsgi_prom.server.members import Members
from wsgi_prom.server.stat import TICKS, Stat, memory
from wsgi_prom.server.totals import Totals

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.server.members import Member
    from wsgi_prom.store.process_totals import Identity, Series, Ticks

# How much of its CPU time a worker that ends takes with it, at most. 32 processes take 1 ms.
_LOOK_SECONDS: Final = 2.0
# The kernel walks through all pages of a process for its PSS: 1 to 3 ms for 60 MB.
_PSS_SECONDS: Final = 60.0
# How many processes' PSS a scrape reads, of new ones.
_PSS_AT_ONCE: Final = 8

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

    Raises ImportError if psutil cannot be imported. `families` is for one thread at a time, and `sample` for another one.
    *clock* returns seconds: tests give it.
    """

    def __init__(
        self, path: Path, *, daemons: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        try:
            self._psutil = import_module("psutil")
        except Exception as error:  # whatever a broken installation raises
            raise ImportError(str(error)) from error
        # What psutil raises for a process that is ending, or hidden: the others are shown.
        self._lost = (self._psutil.Error, OSError, ValueError)
        self._members = Members(self._psutil, path, daemons=daemons)
        self._clock = clock
        # The scrape's thread replaces it.
        self._present: list[Member] = []
        self._totals = Totals(path)
        # By process: when its PSS was read, and the PSS, if it may be read. Both threads add to it.
        self._pss: dict[Identity, tuple[float, dict[str, float]]] = {}

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
            identity = member.stat.identity
            with suppress(*self._lost):
                stat = Stat.read(identity[0])
                if stat.identity != identity:  # another process has the pid
                    continue
                self._totals.add(member[:2], identity, stat.used)
                if now - self._pss.get(identity, (-_PSS_SECONDS, {}))[0] >= _PSS_SECONDS:
                    self._pss[identity] = now, self._read_pss(member.process)
        self._totals.save()

    def families(self, slots: Iterable[Reading]) -> list[Metric]:
        """Return the metrics of the processes that hold *slots*, and of those without one."""
        measured: list[tuple[Member, dict[str, float]]] = []
        for member in self._members.find(slots):
            with suppress(*self._lost):  # it has just ended
                measured.append((member, self._figures(member)))
        self._present = present = [member for member, _ in measured]
        shares = self._shares(present)
        series: dict[Series, dict[str, float]] = {}
        for member, figures in measured:
            _add(series.setdefault(member[:2], {}), figures | shares[member.stat.identity])
        self._totals.forget(set(shares), _runs)
        return list(_families(series, self._totals.save()))

    def _figures(self, member: Member) -> dict[str, float]:
        """Return the gauges of one process by name, and count what it has used. Raises psutil.Error for one that has ended."""
        stat, process = member.stat, member.process
        self._totals.add(member[:2], stat.identity, stat.used)
        virtual, resident = memory(process.pid)
        if not resident:
            raise self._psutil.NoSuchProcess(process.pid)  # a zombie
        gauges = {
            metrics.PROCESS_RESIDENT[0]: resident,
            metrics.PROCESS_VIRTUAL[0]: virtual,
            metrics.PROCESS_START[0]: process.create_time(),
            metrics.PROCESS_THREADS[0]: stat.threads,
        }
        with suppress(self._psutil.AccessDenied):  # another user's, or one that has changed its user
            gauges[metrics.PROCESS_OPEN_FDS[0]] = _open_files(process)
            gauges[metrics.PROCESS_MAX_FDS[0]] = process.rlimit(self._psutil.RLIMIT_NOFILE)[0]
        return gauges

    def _shares(self, present: list[Member]) -> dict[Identity, dict[str, float]]:
        """
        Return the PSS of each process of *present*. Of new ones it is read at once, lest the sum of all sinks after each
        reload.

        If there are too many new ones, the PSS of all is left out until the next look has read it: the sum would be wrong.
        """
        identities = [member.stat.identity for member in present]
        unread = [member for member in present if member.stat.identity not in self._pss]
        for member in unread[:_PSS_AT_ONCE]:
            with suppress(*self._lost):
                self._pss[member.stat.identity] = self._clock(), self._read_pss(member.process)
        whole = len(unread) <= _PSS_AT_ONCE
        shares = {identity: self._pss.get(identity, (0.0, {}))[1] if whole else {} for identity in identities}
        for identity in [known for known in list(self._pss) if known not in shares]:
            self._pss.pop(identity, None)
        return shares

    def _read_pss(self, process: Any) -> dict[str, float]:
        try:
            pss = process.memory_full_info().pss
        except self._psutil.AccessDenied:  # as above
            return {}
        return {metrics.PROCESS_PROPORTIONAL[0]: pss} if pss else {}


def _open_files(process: Any) -> int:
    """
    Return the number of the process's descriptors: 3 us, where a list of a thousand takes 500. Raises psutil.Error, OSError.
    """
    # Linux before 6.2 says 0.
    return os.stat(f"/proc/{process.pid}/fd").st_size or process.num_fds()  # noqa: PTH116 - a Path takes as long again


def _runs(identity: Identity) -> bool:
    try:
        return Stat.read(identity[0]).identity == identity
    except (OSError, ValueError):
        return False


def _add(total: dict[str, float], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        if name == metrics.PROCESS_START[0]:
            total[name] = max(value, total.get(name, 0.0))
        else:
            total[name] = total.get(name, 0.0) + value


def _families(gauges: dict[Series, dict[str, float]], totals: dict[Series, Ticks]) -> Iterator[Metric]:
    labels = [_labels(*series) for series in totals]
    for number, (name, text) in enumerate(_COUNTERS):
        used = [total[number] / TICKS for total in totals.values()]
        yield Column(name, text, "counter", f"{name}_total", labels, used)
    labels = [_labels(*series) for series in gauges]
    for name, text in _GAUGES:
        yield Column(name, text, "gauge", name, labels, [figures.get(name) for figures in gauges.values()])


def _labels(worker: str, role: str) -> dict[str, str]:
    return {"worker": worker, "role": role} if worker else {"role": role}
