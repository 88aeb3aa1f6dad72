"""A collector or the function of a gauge as it is asked in this process, its last answer, and what failed."""

from __future__ import annotations

import logging
import time
from binascii import crc32
from collections import deque
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from wsgi_prom import metrics
from wsgi_prom.store import answer_file

if TYPE_CHECKING:
    from wsgi_prom.client.custom_collectors import Asked

log = logging.getLogger("wsgi_prom")

# Rounds for which an answer is shown: those of a collector that hangs, and of a process that is stopped, are no longer true.
_ROUNDS: Final = 3
# Record locks for collectors, beyond all others of the lock file.
_FIRST_LOCK: Final = 1 << 40
_STAGE: Final = "collect"


class Question:
    """One collector or gauge of this process, the *ordinal*-th of its name, and its last answer."""

    def __init__(self, asked: Asked, ordinal: int, seconds: float) -> None:
        self.asked = asked
        self.ordinal = ordinal
        self.due = 0.0
        self.began: float | None = None  # None while it is not asked
        self.until = 0.0
        self.text = b""
        self.lock = _FIRST_LOCK + crc32(f"{asked.name} {ordinal}".encode())
        self._seconds = seconds
        self._failing = False

    def run(self, failures: Failures) -> None:
        """Ask. Never raises."""
        self.began = began = time.monotonic()
        self.due = began + self._seconds
        try:
            families = answer_file.encode(self.asked.ask())
            at = time.monotonic()
            until = at + _ROUNDS * self._seconds
            record = answer_file.Record(self.asked.name, self.asked.mode, at, until, families, self.ordinal)
            self.text = answer_file.text(record)
            self.until = until
            self._failing = False
        except (
            BaseException
        ) as error:  # also what ends a thread or a greenlet, which is not the collector's to end
            self.text = b""
            if not self._failing:
                failures.add(f"{self.asked.subject} has failed ({type(error).__name__}: {error})")
            else:
                failures.add()
            self._failing = True
        finally:
            self.began = None

    def look(self, now: float, failures: Failures) -> None:
        """Forget an answer that is no longer true, and tell of a collector that hangs."""
        if now >= self.until:
            self.text = b""
        began = self.began
        if began is not None and now - began >= _ROUNDS * self._seconds and not self._failing:
            self._failing = True
            failures.add(f"{self.asked.subject} has not answered for {now - began:.0f} s")


class Failures:
    """Counts what has failed. One thread counts for all, which may be killed at any time: with its process."""

    def __init__(self) -> None:
        self._counter: Counter | None = None
        self._found: deque[str] = deque()

    def add(self, message: str = "") -> None:
        """Count one, and log *message*: not the same one again and again."""
        self._found.append(message)

    def tell(self) -> None:
        """Count and log what was added."""
        while self._found:
            message = self._found.popleft()
            if message:
                log.error("%s: its metrics are left out until it answers again", message)
            if self._counter is None:
                self._counter = Counter(*metrics.ERRORS, ["stage"], registry=None)
            self._counter.labels(_STAGE).inc()
