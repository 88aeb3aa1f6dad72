"""
The metrics of an exporter about itself: the scrapes that it answers, and its certificate.

They are promhttp's of Go exporters (promhttp_metric_handler_requests_total and _in_flight), under our names.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from wsgi_prom import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.exporter.responses import Response

# There before the first of them, for increase(). As promhttp has it.
_CODES: Final = (200, 500, 503)


class Scrapes:
    """The scrapes that an exporter has answered and is answering. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self._answered = dict.fromkeys(_CODES, 0)

    def answer(self, respond: Callable[[], Response]) -> Response:
        """Return the response to a scrape that *respond* makes. What it raises counts as 500, which waitress answers."""
        code = 500
        with self._lock:
            self._in_flight += 1
        try:
            response = respond()
            code = response.status_code
            return response
        finally:
            with self._lock:
                self._in_flight -= 1
                self._answered[code] = self._answered.get(code, 0) + 1

    def families(self) -> list[Metric]:
        with self._lock:
            in_flight, answered = self._in_flight, dict(self._answered)
        counted = CounterMetricFamily(*metrics.SCRAPES, labels=["code"])
        for code, count in answered.items():
            counted.add_metric([str(code)], count)
        return [counted, GaugeMetricFamily(*metrics.SCRAPES_IN_FLIGHT, in_flight)]


def certificate(expiry: float | None) -> list[Metric]:
    """Return the metric of a certificate that expires at *expiry*, none if that is unknown."""
    return [] if expiry is None else [GaugeMetricFamily(*metrics.CERTIFICATE_EXPIRY, expiry)]
