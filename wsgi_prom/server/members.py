"""
Which processes belong to a server, and what each of them is.

1. A process that holds a record lock of the directory is alive, and the kernel tells its pid. A process of another pid
   namespace has no pid here, and is left out.
2. A slot's process is known by its claim, whose time of start is compared: a pid that is given again is another process.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.errors import DirectoryError
from wsgi_prom.server.joined_roles import JoinedRoles
from wsgi_prom.server.stat import Stat
from wsgi_prom.store import claims, roles
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.process_totals import Identity

# A list of the machine's processes takes 60 us for each of them.
_DAEMONS_SECONDS: Final = 15.0
# A worker that has just claimed its slot says only then what it is.
_TASK_SECONDS: Final = 0.5


def masters(path: Path) -> list[int]:
    """Return the pids of the masters that use the directory *path*. Never raises: wsgi_prom_directory_readable tells."""
    try:
        return sorted({pid for pid in LockFile.of(path).servers() if pid})
    except Exception:  # no directory, or not one of ours
        return []


class Member(NamedTuple):
    """
    A *process* (of psutil) of the server as its *stat* file is now, what it is, and the number of its slot, empty if it has
    none.
    """

    worker: str
    role: str
    stat: Stat
    process: Any


class Members:
    """
    The processes of the server that uses the directory *path*, as *psutil* knows them.

    With *daemons*, other programs that the master runs are members too. `find` is for one thread at a time, and
    `look_for_daemons` for another one: each replaces what the other reads, and changes nothing in place.
    """

    def __init__(self, psutil: Any, path: Path, *, daemons: bool) -> None:
        self._psutil = psutil
        self._path = path
        self._supervisor = self._find_supervisor()
        self._runs_daemons = daemons
        self._daemons: list[Identity] = []
        self._look_for_daemons_at = 0.0
        # From scrape to scrape: psutil takes 30 us to make one, and keeps its time of start.
        self._known: dict[Identity, Any] = {}
        self._joined = JoinedRoles()
        # Claims that are of no worker, and since when.
        self._tasks: dict[tuple[int, int], float] = {}

    def find(self, slots: Iterable[Reading]) -> list[Member]:
        """Return the processes that live now: those of *slots*, and those that have none."""
        by_pid = self._roles()
        members = list(self._of_slots(slots, by_pid))
        for pid, role in by_pid.items():
            members += self._member("", role, pid)
        # A daemon that records has a slot.
        others = {member.stat.identity[0] for member in members} | {pid for pid, _ in self._tasks}
        for pid, started in self._daemons:
            if pid not in others:
                members += self._member("", "daemon", pid, started)
        self._known = {member.stat.identity: member.process for member in members}
        return members

    def look_for_daemons(self) -> None:
        """Look for other programs that the master runs, a few times a minute: for a thread that has time."""
        now = time.monotonic()
        if self._runs_daemons and now >= self._look_for_daemons_at:
            self._look_for_daemons_at = now + _DAEMONS_SECONDS
            self._daemons = [daemon for pid in masters(self._path) for daemon in self._programs(pid)]

    def _roles(self) -> dict[int, str]:
        """Return what each process is that is no worker, by its pid."""
        by_pid = {os.getpid(): "exporter"}
        if self._supervisor is not None and self._supervisor == os.getppid():
            by_pid[self._supervisor] = "supervisor"
        by_pid |= dict.fromkeys(masters(self._path), "master")
        with suppress(OSError, DirectoryError):  # as in `masters`
            by_pid |= roles.holders(LockFile.of(self._path))
        return by_pid

    def _find_supervisor(self) -> int | None:
        """
        Return the pid of the process that this one was forked from, without an exec; None if its parent is another program.
        """
        try:
            own, parent = self._psutil.Process(), self._psutil.Process(os.getppid())
            return parent.pid if parent.cmdline() == own.cmdline() else None
        except self._psutil.Error:
            return None

    def _of_slots(self, slots: Iterable[Reading], by_pid: dict[int, str]) -> Iterator[Member]:
        """Yield the processes of *slots*, each once, and take them out of *by_pid*, the roles of processes."""
        here = claims.namespace()
        living = [slot for slot in slots if slot.live and here and slot.claim.namespace == here]
        # The interpreters of one process have a slot each. The worker's is the one that its hook knows of.
        living.sort(key=lambda slot: (not slot.claim.stage, int(slot.name)))
        now, tasks, seen = time.monotonic(), self._tasks, set()
        self._tasks = {}
        for slot in living:
            claim, key = slot.claim, slot.claim[1:3]
            if claim.pid in seen:
                continue
            seen.add(claim.pid)
            joined = "" if claim.stage else self._joined.of(slot)
            role = joined or by_pid.get(claim.pid, "worker" if claim.stage else "task")
            by_pid.pop(claim.pid, None)
            if role == "task" and not joined:
                self._tasks[key] = since = tasks.get(key, now)
                if now - since < _TASK_SECONDS:
                    continue
            yield from self._member(slot.name, role, claim.pid, claim.started)

    def _member(self, worker: str, role: str, pid: int, started: int = 0) -> Iterator[Member]:
        """Yield the process *pid* if it lives, and if it *started* then (in clock ticks after boot; 0: at any time)."""
        with suppress(OSError, ValueError, self._psutil.Error):
            stat = Stat.read(pid)
            if not started or stat.identity[1] == started:
                yield Member(worker, role, stat, self._known.get(stat.identity) or self._psutil.Process(pid))

    def _programs(self, master: int) -> Iterator[Identity]:
        """Yield the children of *master* that run another program, and the descendants of these."""
        failed = self._psutil.Error
        try:
            process = self._psutil.Process(master)
            # An exec changes this name, and a title for `ps` does not. Any user may read it.
            name, descendants = process.name(), process.children(recursive=True)
        except failed:
            return
        # In a container the master is process 1, and so the exporter's parent.
        own = self._roles()
        pids: set[int] = set()
        for descendant in descendants:  # parents come before their children
            with suppress(OSError, ValueError, failed):  # it has ended
                parent = descendant.ppid()
                other = parent == master and descendant.name() != name and descendant.pid not in own
                if parent in pids or other:
                    pids.add(descendant.pid)
                    yield Stat.read(descendant.pid).identity
