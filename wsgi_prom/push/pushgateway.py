"""
A Prometheus Pushgateway, by the client library: each reading takes the place of the one before in its group.

A metric's own label of a name that the grouping key has gets the prefix `exported_`, as in a scrape: the gateway would
overwrite it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.exposition import push_to_gateway
from prometheus_client.metrics_core import Metric

from wsgi_prom.merge.names import encodable
from wsgi_prom.push.attempts import retried
from wsgi_prom.push.endpoint import Endpoint, require
from wsgi_prom.push.reading import exported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from threading import Event

    from wsgi_prom.push.login import Login
    from wsgi_prom.push.reading import Reading

_EXPECTS: Final = "a Pushgateway, such as http://HOST:9091"


class Pushgateway:
    """
    The gateway at *url*; *grouping* has the `job` first, and tells this group from others. It is tried for *seconds*.

    Raises SettingError.
    """

    name = "pushgateway"

    def __init__(self, url: str, login: Login, grouping: Mapping[str, str], seconds: float) -> None:
        require("--pushgateway", "pushgateway", "tenacity", "urllib3")
        self._endpoint = Endpoint("--pushgateway", url, login, _EXPECTS)
        self._url = url
        self._grouping = dict(grouping)
        self._seconds = seconds

    @property
    def where(self) -> str:
        return self._endpoint.where

    def lost(self, reading: Reading) -> int:
        """See `Receiver`."""
        return reading.size

    def send(self, reading: Reading, ended: Event) -> None:
        """See `Receiver`. The gateway keeps what it has: that is what it is for."""
        if not reading.metrics:
            return
        registry = _Registry(reading, self._grouping)
        job, *others = self._grouping.items()

        def attempt() -> None:
            push_to_gateway(
                self._url, job[1], registry=registry, grouping_key=dict(others), handler=self._handler
            )

        retried(attempt, time.monotonic() + self._seconds, ended)

    def _handler(
        self, url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        """Ask as the client library does, with this login. *timeout* is the endpoint's own."""
        del timeout

        def ask() -> None:
            self._endpoint.ask(data, dict(headers), method=method, url=url)

        return ask


class _Registry:
    """A registry with the metrics of *reading*, whose labels do not have the names of *grouping*."""

    def __init__(self, reading: Reading, grouping: Mapping[str, str]) -> None:
        self._reading = reading
        self._grouping = grouping

    def collect(self) -> Iterator[Any]:
        for metric in self._reading.metrics:
            found = Metric(metric.name, encodable(metric.help), metric.type)
            for child in metric.children:
                labels = exported(child.labels, self._grouping)
                for name, more, value in child.samples:
                    found.add_sample(name, {**labels, **dict(more)}, value)
            yield found
