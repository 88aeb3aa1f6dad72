"""
What was read while somebody looked: the readings of the last seconds, to compare with, and lines of the last five minutes.

1. However many look, there is one reading a second, and fewer where they take long: a fifth of one processor at most.
2. Readings and lines are dropped when nobody has looked for half a minute: nothing is kept, and nothing runs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.live.comparison import follow, rates, view
from wsgi_prom.live.view import Past, View

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from wsgi_prom.live.comparison import Rates
    from wsgi_prom.live.figures import Figures

# Seconds. Pages ask each second, by a clock that is not ours.
SHARED: Final = 0.8
# The time that rates and quantiles are over: long enough that a p99 is of more than a few requests.
WINDOW: Final = 10.0
_PAST: Final = 300.0
IDLE: Final = 30.0
# The share of one processor that readings take at most: of 10,000 routes each takes half a second of it.
BUSY: Final = 0.2


class History:
    """
    The readings that *read* returns, for any number of threads. They are dropped *idle* seconds after the last look.
    Looks within *shared* seconds of a reading share it; within more, where readings would else take more than the share *busy*
    of a processor.

    `figures` is the last reading; None before the first, and when all were dropped. `made` holds what a caller makes of views;
    it is dropped with the readings.
    """

    def __init__(
        self, read: Callable[[], Figures], idle: float = IDLE, shared: float = SHARED, busy: float = BUSY
    ) -> None:
        self._read = read
        self._idle = idle
        self._shared = shared
        self._busy = busy
        self._lock = threading.Lock()
        self._looked = self._next = 0.0
        self._watched = False
        self._begin()

    def _begin(self) -> None:
        self._readings: deque[Figures] = deque()
        # Without the routes and workers: the times, and the figures of each line.
        self._past: deque[dict[str, float | None]] = deque()
        self._view = View()
        self.made: dict[Hashable, Any] = {}

    @property
    def figures(self) -> Figures | None:
        readings = self._readings
        return readings[-1] if readings else None

    def look(self) -> View:
        """
        Return the view of now, the same object until there is a later one, and note that somebody looks. Raises what *read* does.
        """
        with self._lock:
            self._looked = time.monotonic()
            # Not by the time that the reading is of: where it takes long, all who have waited get it.
            if not self._readings or self._looked >= self._next:
                used = time.thread_time()
                self._add(self._read())
                used = time.thread_time() - used
                self._next = time.monotonic() + max(self._shared, used / self._busy - used)
            if not self._watched:
                threading.Thread(target=self._drop_when_idle, daemon=True).start()
                self._watched = True
            return self._view

    def _add(self, figures: Figures) -> None:
        if self._readings and self._readings[-1].beginning != figures.beginning:
            self._begin()
        readings = self._readings
        before = readings[-1] if readings else None
        if before is not None:
            follow(before, figures)
        readings.append(figures)
        while len(readings) > 2 and figures.clock - readings[1].clock >= WINDOW - SHARED:
            readings.popleft()
        self._view = view(readings[0] if before else None, figures)
        if before is None:
            return
        self._past.append(_point(rates(before, figures), self._view))
        # Points of a time to come were drawn before the clock was set back.
        while not 0.0 <= figures.time - (self._past[0]["times"] or 0.0) <= _PAST:
            self._past.popleft()
        names = [entry.name for entry in fields(Past)]
        self._view.past = Past(**{name: [point[name] for point in self._past] for name in names})  # type: ignore[arg-type]

    def _drop_when_idle(self) -> None:
        while True:
            with self._lock:
                left = self._looked + self._idle - time.monotonic()
                if left <= 0:
                    self._begin()
                    self._watched = False
                    return
            time.sleep(left)


def _point(last: Rates, window: View) -> dict[str, float | None]:
    """Return the rates since the reading before; and the quantiles, which need more requests, of the window."""
    lengths = [row.length for row in window.queues if row.length is not None]
    return {
        "times": window.time,
        "per_second": last.per_second,
        "errors_per_second": last.errors_per_second,
        "p50_seconds": window.requests.p50_seconds,
        "p99_seconds": window.requests.p99_seconds,
        "utilisation": last.capacity.utilisation,
        "load": last.capacity.load,
        "queue": sum(lengths) if lengths else None,
    }
