"""
The loop of `wsgi-prom push`: a reading every few seconds, for all roads, and one more at the end.

Where there is nothing to read, and at the end, each road gets a reading without metrics, by which a receiver may learn that the series
have ended.

1. A road that hangs keeps neither the loop nor another road waiting.
2. What is kept is bounded: a reading for each road, and one more that it is sending.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.push.reading import Reading
from wsgi_prom.push.road import LAST_SECONDS, Road, families

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_prom.push.reader import Reader
    from wsgi_prom.push.road import Receiver

log = logging.getLogger("wsgi_prom")


def push(
    reader: Reader, receivers: Sequence[Receiver], seconds: float, wait: Callable[[float], bool] | None
) -> bool:
    """
    Send a reading to all *receivers* every so many *seconds* until *wait*, for some of them, returns True; then one more.

    Without *wait*, send one reading, whose series do not end. Return whether all of the last reading was sent.
    """
    roads = [Road(receiver) for receiver in receivers]
    for road in roads:
        road.start()
    readings = _Readings(reader, roads)
    due = time.monotonic()
    # Not below 0: the machine may have slept.
    while wait is not None and not wait(max(due - time.monotonic(), 0.0)):
        readings.offer()
        due = max(due + seconds, time.monotonic())
    before = [road.failed for road in roads]
    there = readings.offer()
    for road in roads:
        road.close(series_end=wait is not None)
    deadline = time.monotonic() + LAST_SECONDS
    for road in roads:
        road.join(max(deadline - time.monotonic(), 0.0))
    for name, sent, failed, lost in [road.counts() for road in roads]:
        log.info("%s: %d readings were sent, %d were not; %d samples are lost", name, sent, failed, lost)
    return there and before == [road.failed for road in roads]


class _Readings:
    def __init__(self, reader: Reader, roads: Sequence[Road]) -> None:
        self._reader = reader
        self._roads = roads
        self._told = ""

    def offer(self) -> bool:
        """Read, and offer the reading to all roads. Return whether there is one."""
        reading, problem = Reading(time.time(), []), ""
        try:
            reading = self._reader.read(families(self._roads))
        except (OSError, DirectoryError) as error:
            problem = str(error)
        except Exception as error:
            problem = f"a failure of wsgi_prom ({type(error).__name__}: {error})"
        if problem and problem != self._told:
            log.warning("%s; nothing is sent until a server uses it and it can be read", problem)
        elif self._told and not problem:
            log.warning("%s can be read again", self._reader.path)
        self._told = problem
        for road in self._roads:
            road.offer(reading)
        return not problem
