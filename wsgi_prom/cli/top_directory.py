"""
Read the figures that `wsgi-prom top` shows from a directory, without its exporter.

1. Nothing is written, no slot is claimed, and nothing is asked of the server: the directory and the kernel tell all.
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from wsgi_prom.cli import serve
from wsgi_prom.cli.running import listening, server_of
from wsgi_prom.errors import DirectoryError, SettingError
from wsgi_prom.exporter.target import Target, own_metrics
from wsgi_prom.live.figures import Process, figures
from wsgi_prom.merge.collector import Collector
from wsgi_prom.server.joined_roles import JoinedRoles
from wsgi_prom.server.listen_queues import ListeningSocket
from wsgi_prom.server.members import masters
from wsgi_prom.server.queue_metrics import QueueMetrics
from wsgi_prom.server.stat import TICKS, Stat, memory
from wsgi_prom.server.workers import Workers, has_hook
from wsgi_prom.store import claims, roles
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.live.figures import Figures
    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.process_totals import Identity


class DirectoryFigures:
    """The figures of the directory *path*. For one thread at a time. Raises DirectoryError when the directory cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._workers = Workers()
        self._joined = JoinedRoles()
        self._cpu = _CpuSeconds()
        self._target = Target()
        self._queues: QueueMetrics | None = None
        self._masters: list[int] = []
        self._beginning = 0
        self._begin()

    def _begin(self) -> None:
        self._beginning += 1
        self._masters = masters(self._path)
        # A new one: the former would add the counters of the next server to those of the last one.
        self._collector = Collector(self._path)
        self._target = _target(self._path)
        sockets = self._target.sockets or tuple(_sockets(self._masters))
        self._queues = QueueMetrics(sockets) if sockets else None
        if self._queues is not None:
            self._queues.go_on(self._path, writes=False)

    def read(self) -> Figures:
        pids = masters(self._path)
        if pids != self._masters or not self._path.exists():
            # A server has started, or has ended.
            self._begin()
        clock, now = time.monotonic(), time.time()
        families = self._collector.collect()
        slots = self._collector.slots
        hooked = has_hook(slots)
        concurrency = self._target.concurrency if hooked else 0
        workers = self._workers.families(slots, hooked=hooked, concurrency=concurrency)
        about = own_metrics(
            self._collector.report, self._target.info(self._path), *self._target.server_info()
        )
        others = chain(about, workers, self._listen_queues())
        found = figures(clock, now, families, others, self._workers.states(slots))
        found.processes = dict(self._processes(slots, pids))
        found.beginning = self._beginning
        return found

    def _listen_queues(self) -> list[Metric]:
        with suppress(OSError):  # the kernel does not answer
            return self._queues.families() if self._queues else []
        return []

    def _processes(
        self, slots: Iterable[Reading], pids: list[int]
    ) -> Iterator[tuple[tuple[str, str], Process]]:
        others = dict.fromkeys(pids, "master")
        with suppress(OSError, DirectoryError):
            others |= roles.holders(LockFile.of(self._path))
        here = claims.namespace()
        for slot in slots:
            claim = slot.claim
            if slot.live and here and claim.namespace == here:
                role = "worker" if claim.stage else self._joined.of(slot) or "task"
                yield from self._process((slot.name, others.pop(claim.pid, role)), claim.pid, claim.started)
        for pid, role in others.items():
            yield from self._process(("", role), pid, 0)

    def _process(
        self, key: tuple[str, str], pid: int, started: int
    ) -> Iterator[tuple[tuple[str, str], Process]]:
        with suppress(OSError, ValueError):  # it has just ended
            stat = Stat.read(pid)
            if started and stat.identity[1] != started:  # another process has the pid
                return
            boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
            cpu = self._cpu.add(key, stat.identity, stat.used[0] / TICKS)
            yield key, Process(cpu, memory(pid)[1], boot + stat.identity[1] / TICKS)


class _CpuSeconds:
    """The CPU seconds of series that process after process goes on with: what each has used since it was first seen."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[Identity, float, float]] = {}

    def add(self, key: tuple[str, str], identity: Identity, used: float) -> float:
        """Return the seconds of the series *key*, whose process has *used* so many."""
        before, used_before, total = self._last.get(key, (identity, used, 0.0))
        # CPU time that a process used before it was seen for the first time does not count.
        total += used - used_before if before == identity else used
        self._last[key] = identity, used, total
        return total


def _target(path: Path) -> Target:
    """Return what the exporter of *path* was told of its server, as its command line has it; nothing without one."""
    with suppress(OSError, ValueError):
        server = server_of(path)
        if server is not None and server.exporter:
            words = Path(f"/proc/{server.exporter}/cmdline").read_bytes().decode().split("\0")
            parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
            serve.add_arguments(parser)
            with suppress(argparse.ArgumentError, SettingError):
                return serve.target_of(parser.parse_known_args(words[words.index("serve") + 1 :])[0])
    return Target()


def _sockets(pids: list[int]) -> Iterator[ListeningSocket]:
    """Yield the TCP addresses that the processes *pids* listen on, as far as psutil is there to tell."""
    for address in {address for pid in pids for address, _ in listening(pid)}:
        if not address.path:
            with suppress(OSError):
                yield ListeningSocket.at(address.host, address.port)
