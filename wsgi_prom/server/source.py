"""
A source of metrics outside of this process, which may fail, be slow or hang for ever: scrapes wait for it until a deadline.

1. A source is read in a thread, in one at a time. One that hangs in a system call keeps that thread, and no other is started.
2. A scrape gets a reading that began after its request had arrived. Scrapes at the same time share one.
3. The deadline is a scrape's own: that one scrape gives up early does not end the reading, for which another still waits.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.metrics_core import Metric

    Read = Callable[[], list[Metric]]

log = logging.getLogger("wsgi_prom")

# Seconds that a scrape waits at most: Prometheus' own timeout, unless it is set. A source that takes longer is not waited for
# until it has answered.
LONGEST: Final = 10.0


class Source:
    """
    The source called *name*. Without an answer, its metrics are those of *otherwise*. For any number of threads.
    """

    def __init__(self, name: str, otherwise: list[Metric] | None = None) -> None:
        self._name = name
        self._otherwise = otherwise or []
        self._lock = threading.Lock()
        self._last: _Reading | None = None
        # A failure is logged once, until the source works again.
        self._failing = False

    def begin(self, read: Read, arrival: float) -> _Reading:
        """
        Return a reading for a scrape that arrived at *arrival*, or one that began before it and has not ended.

        *read*, which may raise any error, is called in a thread where there is neither.
        """
        with self._lock:
            last = self._last
            if last is None or (last.ended.is_set() and last.began < arrival):
                last = self._last = _Reading(read)
            return last

    def families(self, read: Read, arrival: float, deadline: float) -> list[Metric]:
        """Return the metrics of a reading that began after *arrival*, as `begin`, if it ends by *deadline*. Never raises."""
        reading = self._finished(read, arrival, deadline)
        if reading is None:
            self._tell("%s: no answer in time, no metrics of it", self._name)
        elif reading.error is not None:
            kind = type(reading.error).__name__
            self._tell("%s cannot be read (%s: %s): no metrics of it", self._name, kind, reading.error)
        else:
            self._failing = False
            return reading.families
        return self._otherwise

    def _finished(self, read: Read, arrival: float, deadline: float) -> _Reading | None:
        while True:
            reading = self.begin(read, arrival)
            until = min(deadline, reading.began + LONGEST)
            if not reading.ended.wait(max(until - time.monotonic(), 0)):
                return None
            if reading.began >= arrival:
                return reading

    def _tell(self, message: str, *arguments: object) -> None:
        if not self._failing:
            self._failing = True
            log.warning(message, *arguments)


class _Reading:
    """One call of *read*, in a thread of its own; at its end there are *families*, or an *error*."""

    def __init__(self, read: Read) -> None:
        self.began = time.monotonic()
        self.ended = threading.Event()
        self.families: list[Metric] = []
        self.error: Exception | None = None
        try:
            # A daemon: the process does not wait for it when it ends.
            threading.Thread(target=self._run, args=(read,), daemon=True).start()
        except RuntimeError as error:  # no more threads
            self.error = error
            self.ended.set()

    def _run(self, read: Read) -> None:
        try:
            self.families = read()
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
