"""A metric of many things of one kind, which shares their label sets with the other metrics of that kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence


class Column(Metric):
    """
    The metric *name*, whose samples are called *sample*: for each of *labels* one of *values*, None where there is no sample.

    A page is made of the values, without the samples: two thousand of them took 2 ms of a scrape.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        typ: str,
        sample: str,
        labels: Sequence[dict[str, str]],
        values: Sequence[float | None],
    ) -> None:
        # Not the library's, which sets samples.
        self.name, self.documentation, self.type, self.unit = name, documentation, typ, ""
        self.sample, self.labels, self.values = sample, labels, values

    @property
    def samples(self) -> list[Sample]:  # type: ignore[override]
        found = zip(self.labels, self.values, strict=True)
        return [Sample(self.sample, labels, value) for labels, value in found if value is not None]
