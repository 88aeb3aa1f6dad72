"""
Prometheus remote write 1.0: every series of a reading with the time of the reading.

1. A series that is gone is marked as stale once, as Prometheus marks one that is gone from a page; and so are all where there is
   nothing to read, and at the end of the command: the specification asks for it.
2. Series have the labels `job` and `instance`. A metric's own of these names gets the prefix `exported_`, as in a scrape.
3. A batch that the receiver refuses is lost, and the others go. If it is away, the rest of the reading is lost.
"""

from __future__ import annotations

import struct
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.push.attempts import retried, send_each
from wsgi_prom.push.endpoint import Endpoint, require
from wsgi_prom.push.reading import exported
from wsgi_prom.push.sender import PushError
from wsgi_prom.push.write_request import TYPES, write_request

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Event

    from wsgi_prom.push.login import Login
    from wsgi_prom.push.reading import Labels, Reading

# As many as Prometheus itself sends in one request.
_BATCH: Final = 2000
# As often as Prometheus itself (metadata_config.send_interval): a receiver that was started again has none.
_DESCRIBE_SECONDS: Final = 60.0
# The NaN that means "gone" (prometheus/model/value: StaleNaN).
_STALE: Final = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
_HEADERS: Final = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
_EXPECTS: Final = (
    "a receiver of remote write; Prometheus has one at http://HOST:9090/api/v1/write "
    "with --web.enable-remote-write-receiver"
)


class RemoteWrite:
    """The receiver at *url*; *labels* are added to each series. It is tried for *seconds*. Raises SettingError."""

    name = "remote_write"

    def __init__(self, url: str, login: Login, labels: Mapping[str, str], seconds: float) -> None:
        require("--remote-write", "remote-write", "cramjam", "google.protobuf", "tenacity", "urllib3")
        self._endpoint = Endpoint("--remote-write", url, login, _EXPECTS)
        self._own = dict(labels)
        self._seconds = seconds
        # The series that the receiver has and shows, the metrics whose metadata it has, and when it gets them again.
        self._shown: set[Labels] = set()
        self._described: frozenset[str] = frozenset()
        self._describe_again = 0.0

    @property
    def where(self) -> str:
        return self._endpoint.where

    def lost(self, reading: Reading) -> int:
        """See `Receiver`."""
        return reading.size

    def send(self, reading: Reading, ended: Event) -> None:
        """See `Receiver`. Series that are not in *reading* are marked as stale."""
        began = monotonic()
        deadline = began + self._seconds
        names = frozenset([metric.name for metric in reading.metrics])
        describes = bool(names) and (names != self._described or began >= self._describe_again)
        if describes:
            self._describe(reading, deadline, ended)
        found: dict[Labels, float] = {}
        for name, labels, value in reading.series:
            found.setdefault(self._labels(name, labels), value)
        samples = [*found.items(), *((labels, _STALE) for labels in self._shown - found.keys())]
        time = round(reading.time * 1000)

        def post(batch: list[tuple[Labels, float]]) -> None:
            self._post(_series(batch, time), deadline, ended)
            self._shown.difference_update([labels for labels, _ in batch if labels not in found])
            self._shown.update([labels for labels, _ in batch if labels in found])

        batches = [samples[first : first + _BATCH] for first in range(0, len(samples), _BATCH)]
        # The next reading marks what this one could not.
        send_each([(batch, sum(labels in found for labels, _ in batch)) for batch in batches], post)
        if describes:
            self._described, self._describe_again = names, began + _DESCRIBE_SECONDS

    def _describe(self, reading: Reading, deadline: float, ended: Event) -> None:
        """Tell the types and helps of metrics."""
        request = write_request()()
        for metric in reading.metrics:
            request.metadata.add(
                type=TYPES.get(metric.type, 0),
                metric_family_name=metric.name + ("_total" if metric.type == "counter" else ""),
                help=metric.help,
                unit=metric.unit,
            )
        try:
            self._post(request, deadline, ended)
        except PushError as error:
            # Some receivers want no metadata. If it is not that, the samples are refused too, and metadata go with the next reading.
            if not error.lasting:
                raise

    def _labels(self, name: str, labels: Labels) -> Labels:
        own = {"__name__": name, **self._own}
        return tuple(sorted((own | exported(labels, own)).items()))

    def _post(self, request: Any, deadline: float, ended: Event) -> None:
        import cramjam

        body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
        retried(lambda: self._endpoint.ask(body, _HEADERS), deadline, ended)


def _series(batch: list[tuple[Labels, float]], time: int) -> Any:
    request = write_request()()
    for labels, value in batch:
        series = request.timeseries.add()
        for name, text in labels:
            series.labels.add(name=name, value=text)
        series.samples.add(value=value, timestamp=time)
    return request
