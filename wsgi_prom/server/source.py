"""
A source of metrics outside of this process, which may fail, be slow or hang for ever: scrapes wait for it until a deadline.

1. A source is read in a thread of its own, which it keeps: a new one for each reading took 0.1 ms. A source that hangs in a
   system call is not read a second time meanwhile.
2. A scrape gets a reading that began, and is made from slots that were collected, after its request had arrived. Scrapes at the
   same time share one.
3. The deadline is a scrape's own: that one scrape gives up early does not end the reading, for which another still waits.
"""

from __future__ import annotations

import logging
import threading
import time
from math import inf
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.metrics_core import Metric

    Read = Callable[[], list[Metric]]

log = logging.getLogger("wsgi_prom")

# Seconds that a scrape waits at most: Prometheus' own timeout, unless it is set. A source that takes longer is not waited for
# until it has answered.
LONGEST: Final = 10.0

# Scrapes of one client wait for about as long each time.
_MUCH_LONGER: Final = 1.1


class Source:
    """
    The source called *name*. Without an answer, its metrics are those of *otherwise*. For any number of threads.
    """

    def __init__(self, name: str, otherwise: list[Metric] | None = None) -> None:
        self._name = name
        self._otherwise = otherwise or []
        self._lock = threading.Lock()
        self._last: _Reading | None = None
        self._wanted: SimpleQueue[_Reading] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # A failure is logged once, until the source would not fail so again: how many seconds the scrape had waited that went
        # without it, infinity after an error, 0 while it works.
        self._failing = 0.0

    def begin(self, read: Read, arrival: float, collected: float = inf) -> _Reading:
        """
        Return a reading for a scrape that arrived at *arrival*, or one that began before it and has not ended.

        *read*, which may raise any error, is called in the source's thread where there is neither. *collected* is when the
        slots that it uses were collected, by default now.
        """
        with self._lock:
            last = self._last
            if last is None or (last.ended.is_set() and last.collected < arrival):
                last = self._last = _Reading(read, collected)
                try:
                    if self._thread is None:
                        # A daemon: the process does not wait for it when it ends.
                        thread = threading.Thread(target=self._serve, daemon=True)
                        thread.start()
                        self._thread = thread
                    self._wanted.put(last)
                except RuntimeError as error:  # no more threads
                    last.error = error
                    last.ended.set()
            return last

    def _serve(self) -> None:
        while True:
            self._wanted.get().run()

    def families(self, read: Read, arrival: float, deadline: float, collected: float = inf) -> list[Metric]:
        """
        Return the metrics of a reading for a scrape that arrived at *arrival*, as `begin`, if it ends by *deadline*.

        Never raises.
        """
        reading = self._finished(read, arrival, deadline, collected)
        if reading is None:
            waited = deadline - arrival
            self._tell(waited, "%s: no answer within %.1f s, no metrics of it", self._name, waited)
        elif reading.error is not None:
            kind = type(reading.error).__name__
            self._tell(inf, "%s cannot be read (%s: %s): no metrics of it", self._name, kind, reading.error)
        else:
            # Only if it was fast enough for the scrape that went without it, whose failure would else be logged each time.
            if reading.seconds <= self._failing:
                self._failing = 0.0
            return reading.families
        return self._otherwise

    def _finished(self, read: Read, arrival: float, deadline: float, collected: float) -> _Reading | None:
        while True:
            reading = self.begin(read, arrival, collected)
            until = min(deadline, reading.began + LONGEST)
            if not reading.ended.wait(max(until - time.monotonic(), 0)):
                return None
            if reading.collected >= arrival:
                return reading

    def _tell(self, waited: float, message: str, *arguments: object) -> None:
        if waited > self._failing * _MUCH_LONGER:
            self._failing = waited
            log.warning(message, *arguments)


class _Reading:
    """One call of *read*; at its end there are *families*, after *seconds*, or an *error*."""

    def __init__(self, read: Read, collected: float) -> None:
        self._read = read
        self.began = time.monotonic()
        self.collected = min(self.began, collected)
        self.seconds = 0.0
        self.ended = threading.Event()
        self.families: list[Metric] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.families = self._read()
            self.seconds = time.monotonic() - self.began
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
