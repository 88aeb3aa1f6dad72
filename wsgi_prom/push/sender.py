"""
Sends readings to a receiver in a thread of its own: a slow receiver keeps nothing else waiting.

1. A sender has one reading to send at most. A newer one takes its place, and the older one is counted as failed.
2. A failure is logged once, and once more when the sender works again.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client.metrics_core import CounterMetricFamily

from wsgi_prom import metrics
from wsgi_prom.errors import WsgiPromError
from wsgi_prom.push.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

log = logging.getLogger("wsgi_prom")

# How long the last reading may take, and the pauses between attempts with it.
LAST_SECONDS: Final = 5.0


class PushError(WsgiPromError):
    """
    A reading, or *lost* samples of it, could not be sent; without a number, all of it.

    *pause*: the receiver wants none for so many seconds. *lasting*: nothing will change before somebody does something.
    """

    def __init__(
        self, message: str, *, lost: int | None = None, pause: float = 0.0, lasting: bool = False
    ) -> None:
        super().__init__(message)
        self.lost = lost
        self.pause = pause
        self.lasting = lasting


class Receiver(Protocol):
    """Where readings go."""

    @property
    def name(self) -> str:
        """The label `to` of its metrics."""

    @property
    def where(self) -> str:
        """Its option and value, for messages; without any password."""

    def lost(self, reading: Reading) -> int:
        """Return how many samples of *reading* nobody gets if it is not sent."""

    def send(self, reading: Reading, ended: threading.Event) -> None:
        """
        Send *reading*; of one without metrics, at most that the series have ended. Raises PushError.

        It takes an interval at most, pauses between its attempts included, which *ended* cuts short.
        """


class Sender:
    """Sends readings to *receiver*. `offer` and `counts` are for any thread, and so is `families`."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._condition = threading.Condition()
        self._next: Reading | None = None
        self._closed = False
        self._series_end = False
        self._ended = threading.Event()
        self._told = ""
        # The readings and samples that had failed when it last worked.
        self._before = 0, 0
        self.sent = 0
        self.failed = 0
        self.lost = 0
        self._thread = threading.Thread(target=self._run, name=receiver.where, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, reading: Reading) -> None:
        """Have *reading* sent as soon as the one before is done with. Does not wait."""
        with self._condition:
            if self._next is not None:
                self._fail(self._next)
            self._next = reading
            self._condition.notify()

    def close(self, *, series_end: bool) -> None:
        """Have the thread end once it has sent what it has, and, with *series_end*, that no more comes. Does not wait."""
        with self._condition:
            self._closed = True
            self._series_end = series_end
            self._ended.set()
            self._condition.notify()

    def join(self, seconds: float) -> None:
        """Wait for the thread, and count what it has not sent then."""
        self._thread.join(seconds)
        with self._condition:
            if self._thread.is_alive():
                self.failed += 1
                self.lost += self._receiver.lost(self._next) if self._next else 0
                log.warning("%s has not answered; the last reading is not sent", self._receiver.where)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._next is not None or self._closed)
                reading, self._next = self._next, None
            if reading is None:
                break
            self._send(reading)
        if self._series_end:
            # Not at the time of the last reading.
            self._send(Reading(time.time() + 0.001, []))

    def _send(self, reading: Reading) -> None:
        try:
            self._receiver.send(reading, self._ended)
        except PushError as error:
            with self._condition:
                self._fail(reading, error.lost)
            self._tell(str(error), lasting=error.lasting)
        except Exception as error:
            with self._condition:
                self._fail(reading)
            self._tell(
                f"{self._receiver.where}: a failure of wsgi_prom ({type(error).__name__}: {error})",
                lasting=True,
            )
        else:
            if not reading.metrics:  # there may have been nothing to send
                return
            with self._condition:
                self.sent += 1
                readings, samples = self.failed - self._before[0], self.lost - self._before[1]
                self._before = self.failed, self.lost
            if self._told:
                self._told = ""
                log.warning(
                    "%s works again; %d readings were not sent, %d samples",
                    self._receiver.where,
                    readings,
                    samples,
                )

    def _fail(self, reading: Reading, lost: int | None = None) -> None:
        self.failed += bool(reading.metrics)
        self.lost += self._receiver.lost(reading) if lost is None else lost

    def _tell(self, message: str, *, lasting: bool) -> None:
        # Not each message: what a receiver says may differ each time.
        if not self._told:
            self._told = message
            log.log(
                logging.ERROR if lasting else logging.WARNING,
                "%s. It is tried again with each reading",
                message,
            )

    def counts(self) -> tuple[str, int, int, int]:
        """Return the name, the readings that were sent and that failed, and the samples that were lost."""
        with self._condition:
            return self._receiver.name, self.sent, self.failed, self.lost


def families(senders: Iterable[Sender]) -> list[Metric]:
    """Return what *senders* have done so far, as metrics."""
    readings = CounterMetricFamily(*metrics.PUSH_READINGS, labels=["to", "result"])
    lost = CounterMetricFamily(*metrics.PUSH_LOST, labels=["to"])
    for name, sent, failed, samples in [sender.counts() for sender in senders]:
        readings.add_metric([name, "sent"], sent)
        readings.add_metric([name, "failed"], failed)
        lost.add_metric([name], samples)
    return [readings, lost]
