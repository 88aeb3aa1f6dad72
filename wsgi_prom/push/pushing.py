"""
The loop of `wsgi-prom push`: a reading every few seconds, for all receivers, and one more at the end.

Where there is nothing to read, and at the end, each gets a reading without metrics, by which it may learn that the series have ended.

1. A receiver that hangs keeps neither the loop nor another one waiting: each has a sender, in a thread.
2. What is kept is bounded: a reading for each sender, and one more that it is sending.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.push.reading import Reading
from wsgi_prom.push.sender import LAST_SECONDS, Sender, families

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_prom.push.reader import Reader
    from wsgi_prom.push.sender import Receiver

log = logging.getLogger("wsgi_prom")


def push(
    reader: Reader, receivers: Sequence[Receiver], seconds: float, wait: Callable[[float], bool] | None
) -> bool:
    """
    Send a reading to all *receivers* every so many *seconds* until *wait*, for some of them, returns True; then one more.

    Without *wait*, send one reading, whose series do not end. Return whether all of the last reading was sent.
    """
    senders = [Sender(receiver) for receiver in receivers]
    for sender in senders:
        sender.start()
    readings = _Readings(reader, senders)
    due = time.monotonic()
    # Not below 0: the machine may have slept.
    while wait is not None and not wait(max(due - time.monotonic(), 0.0)):
        readings.offer()
        due = max(due + seconds, time.monotonic())
    before = [sender.failed for sender in senders]
    there = readings.offer()
    for sender in senders:
        sender.close(series_end=wait is not None)
    deadline = time.monotonic() + LAST_SECONDS
    for sender in senders:
        sender.join(max(deadline - time.monotonic(), 0.0))
    for name, sent, failed, lost in [sender.counts() for sender in senders]:
        log.info("%s: %d readings were sent, %d were not; %d samples are lost", name, sent, failed, lost)
    return there and before == [sender.failed for sender in senders]


class _Readings:
    def __init__(self, reader: Reader, senders: Sequence[Sender]) -> None:
        self._reader = reader
        self._senders = senders
        self._told = ""

    def offer(self) -> bool:
        """Read, and offer the reading to all senders. Return whether there is one."""
        reading, problem = Reading(time.time(), []), ""
        try:
            reading = self._reader.read(families(self._senders))
        except (OSError, DirectoryError) as error:
            problem = str(error)
        except Exception as error:
            problem = f"a failure of wsgi_prom ({type(error).__name__}: {error})"
        if problem and problem != self._told:
            log.warning("%s; nothing is sent until a server uses it and it can be read", problem)
        elif self._told and not problem:
            log.warning("%s can be read again", self._reader.path)
        self._told = problem
        for sender in self._senders:
            sender.offer(reading)
        return not problem
