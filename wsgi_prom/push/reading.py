"""
A reading: all metrics of a shared directory at one time, as every sender has it.

Names are in the escaping that every Prometheus reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsgi_prom.merge.names import UNDERSCORES, distinct, encodable, label_name

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """*more* are its labels beside those of its label set: `le`."""

    name: str
    more: Labels
    value: float


class Child(NamedTuple):
    """
    A label set: its *labels* in the order of their names.

    *start*: since when it counts, in seconds since the epoch; 0 if unknown.
    """

    labels: Labels
    start: float
    samples: tuple[Sample, ...]


class Metric(NamedTuple):
    """A metric; *name* is without the `_total` of a counter. *type* is as the client library spells it."""

    name: str
    type: str
    help: str
    unit: str
    children: list[Child]


class Reading(NamedTuple):
    """The *metrics* at a *time*, in seconds since the epoch. Without any, those of the readings before have ended."""

    time: float
    metrics: list[Metric]

    @property
    def series(self) -> Iterator[tuple[str, Labels, float]]:
        """The name, the labels in the order of their names, and the value of each sample."""
        for metric in self.metrics:
            for child in metric.children:
                for name, more, value in child.samples:
                    yield name, (tuple(sorted(child.labels + more)) if more else child.labels), value

    @property
    def size(self) -> int:
        """The number of samples."""
        return sum([len(child.samples) for metric in self.metrics for child in metric.children])


def exported(labels: Labels, taken: Container[str]) -> dict[str, str]:
    """Return *labels*, less empty ones; a name that is *taken* gets the prefix `exported_`, as in a scrape."""
    found: dict[str, str] = {}
    for name, value in labels:
        shown = name
        while shown in taken or shown in found:
            shown = f"exported_{shown}"
        if value:
            found[shown] = value
    return found


def shown_labels(labels: Iterable[tuple[str, str]]) -> Labels:
    """Return *labels* as a page has them, in the order of their names."""
    shown = [(label_name(name, UNDERSCORES), value) for name, value in distinct(labels, UNDERSCORES)]
    return tuple(sorted((name, value if value.isascii() else encodable(value)) for name, value in shown))
