"""
CPU time by series, which goes on while processes replace each other, and while exporters do.

1. A series counts what each of its processes has used since it was last seen. So it never goes back, and counts nothing twice.
2. What a page shows has been written to the directory before. Where that fails, the next exporter goes on from an earlier
   state.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError, FormatError
from wsgi_prom.store import process_totals
from wsgi_prom.store.process_totals import Counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsgi_prom.store.process_totals import Identity, Series, Ticks


class Totals:
    """
    The CPU time of the processes that use the directory *path*, which has that of earlier exporters. For any number of threads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counted: Counted | None = None
        self._written: Counted | None = None

    def add(self, series: Series, identity: Identity, used: Ticks) -> None:
        """Count for *series* what a process has *used* since it was last seen; all of it the first time."""
        with self._lock:
            totals, seen = self._load()
            before = seen.get(identity, (0, 0))
            # Two threads look at a process, and the later one may have looked first.
            now = max(used[0], before[0]), max(used[1], before[1])
            own, children = totals.get(series, (0, 0))
            totals[series] = own + now[0] - before[0], children + now[1] - before[1]
            seen[identity] = now

    def forget(self, present: set[Identity], runs: Callable[[Identity], bool]) -> None:
        """Forget processes that have ended: those that are not among *present*, and of which *runs* returns False."""
        with self._lock:
            _, seen = self._load()
            for identity in [known for known in seen if known not in present and not runs(known)]:
                del seen[identity]

    def save(self) -> dict[Series, Ticks]:
        """Write the totals to the directory if they have changed, and return them. Never raises."""
        with self._lock:
            totals, seen = self._load()
            counted = Counted(dict(totals), dict(seen))
            if counted != self._written:
                with suppress(OSError, DirectoryError):  # a full disk, or the directory is gone
                    process_totals.write(self._path, counted)
                    self._written = counted
            return counted.totals

    def _load(self) -> Counted:
        # Not before the first look, when the exporter before this one has ended.
        if self._counted is None:
            try:
                self._counted = process_totals.read(self._path)
            except (OSError, DirectoryError, FormatError):
                self._counted = Counted({}, {})
        return self._counted
