"""
The age of the last heartbeat of each worker of gunicorn, from the file by which its arbiter knows it too.

1. A worker changes the times of a temporary file that has no name (gunicorn/workers/workertmp.py), and nothing here costs it more.
   The kernel shows that file in /proc to the worker's own user, unless the worker has dropped root.
2. The time of the change (ctime) is in each version of gunicorn that of the last heartbeat: by fchmod up to 20.0, by utime since.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import GaugeMetricFamily

from wsgi_prom import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading
    from wsgi_prom.store.claims import Claim

_NAME: Final = "/wgunicorn-"
_UNLINKED: Final = " (deleted)"


class Heartbeats:
    """The heartbeats of the workers of one server. Not for two threads at once. *clock* returns the time: tests give it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
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
            last = file.changed() if file is not None else None
            if last is not None:
                family.add_metric([name], max(self._clock() - last, 0.0))
        return [family]


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
                    target = os.readlink(path)  # noqa: PTH115 - no path: the kernel adds a word
                    if _NAME in target and target.endswith(_UNLINKED):
                        found[_identity(path)] = path
        if len(found) != 1:
            return None
        ((identity, path),) = found.items()
        return cls(path, identity)

    def changed(self) -> float | None:
        """Return when the file was changed last, None if the process has closed it."""
        with suppress(OSError):
            status = self._path.stat()
            if (status.st_dev, status.st_ino) == self._identity:
                return status.st_ctime
        return None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
