"""
The age of the last heartbeat of each worker of gunicorn, from the file by which its arbiter knows it too.

1. A worker changes the times of a temporary file that has no name (gunicorn/workers/workertmp.py), and nothing here costs it
   more. The kernel shows that file in /proc to the worker's own user, unless the worker has dropped root.
2. A heartbeat sets the file's mtime to that of the monotonic clock, which nobody sets. gunicorn up to 20.0 calls fchmod
   instead: then mtime is the wall clock's of a moment ago or long ago, more than any machine has been up, and the change
   (ctime) is the heartbeat. So it is until the first heartbeat of a worker.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.claims import Claim

_NAME: Final = "/wgunicorn-"
_UNLINKED: Final = " (deleted)"


class Heartbeats:
    """The heartbeats of the workers of one server. Not for two threads at once. *clock* and *wall_clock* are given by tests."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        # The file of each worker, None if it cannot be found: a worker may have thousands of descriptors.
        self._files: dict[Claim, _File | None] = {}

    def families(self, slots: Iterable[Reading]) -> list[Metric]:
        """Return the age of the last heartbeat of the workers that hold *slots*, as far as it can be seen."""
        family = GaugeMetricFamily(*metrics.HEARTBEAT_AGE, labels=["worker"])
        workers = {slot.name: slot.claim for slot in slots if slot.live and slot.claim.stage}
        # The stage is no part of it: it changes.
        claims = {name: claim._replace(stage=0) for name, claim in workers.items()}
        self._files = {
            claim: self._files[claim] if claim in self._files else _File.of(claim)
            for claim in claims.values()
        }
        for name, claim in claims.items():
            file = self._files[claim]
            status = file.status() if file is not None else None
            if status is not None:
                family.add_metric([name], max(self._age(status), 0.0))
        return [family]

    def _age(self, status: os.stat_result) -> float:
        now = self._clock()
        return now - status.st_mtime if status.st_mtime <= now else self._wall_clock() - status.st_ctime


class _File:
    """A file that a process has open, at its *path* in /proc; *identity* is its device and inode."""

    def __init__(self, path: Path, identity: tuple[int, int]) -> None:
        self._path = path
        self._identity = identity

    @classmethod
    def of(cls, claim: Claim) -> _File | None:
        """Return the heartbeat file of the worker that made *claim*, None if it cannot be seen or there are several."""
        if not claim.lives():  # perhaps, in another pid namespace
            return None
        found: dict[tuple[int, int], Path] = {}
        with suppress(OSError):
            for path in Path(f"/proc/{claim.pid}/fd").iterdir():
                with suppress(OSError):  # closed meanwhile
                    target = str(path.readlink())  # with a word that the kernel adds
                    if _NAME in target and target.endswith(_UNLINKED):
                        found[_identity(path)] = path
        if len(found) != 1:
            return None
        ((identity, path),) = found.items()
        return cls(path, identity)

    def status(self) -> os.stat_result | None:
        """Return the status of the file, None if the process has closed it."""
        with suppress(OSError):
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                return status
        return None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
