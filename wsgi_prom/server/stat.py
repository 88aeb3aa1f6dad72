"""What the kernel says of a process in its stat file, which tells processes apart that have had the same pid."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_prom.store.claims import stat_fields

if TYPE_CHECKING:
    from wsgi_prom.store.process_totals import Identity, Ticks


class Stat(NamedTuple):
    """
    A process's *identity*, the clock ticks that it has *used*, and its number of *threads*.

    Its resident memory stands there too, but up to 80 pages off on 2 processors (Linux 6.18) where statm, which psutil reads, is right.
    """

    identity: Identity
    used: Ticks
    threads: int

    @classmethod
    def read(cls, pid: int) -> Stat:
        """Read it: 11 us, where psutil takes 90 to tell as much. Raises OSError, ValueError for a process that has ended."""
        fields = stat_fields(pid)
        if len(fields) < 20:
            raise ValueError(f"process {pid} has ended")
        user, system, children_user, children_system = map(int, fields[11:15])
        used = user + system, children_user + children_system
        return cls((pid, int(fields[19])), used, int(fields[17]))
