"""
What the columns of a row mean: a schema, and the metrics that it carries.

Before the values, each row has its start time, in seconds since the epoch: since when they count, 0 if that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

LIVE_MODES: Final = frozenset({"liveall", "livemin", "livemax", "livesum", "livemostrecent", "livestarts"})
# The next owner of a slot starts these from 0: a live gauge is of a living process, and `all` of one process.
PER_PROCESS_MODES: Final = LIVE_MODES | {"all"}

GAUGE_MODES: Final = LIVE_MODES | {mode.removeprefix("live") for mode in LIVE_MODES}

Columns = tuple[int, int]  # from, to (exclusive), counted from the row's first value


@dataclass(frozen=True)
class Metric:
    """
    One metric family that a row carries.

    *name* is the family's name without a suffix (`http_requests`, not `http_requests_total`). *labels* are positions
    among the schema's label names. *count* are the columns whose sum is the counter's value, the gauge's, or the
    number of observations of a summary, from which the sum of *less* is taken off; *total* is the column of a sum of
    observations; *buckets* belong to *bounds*. *zero* of a counter or a histogram, a label and a value of it, or more of both, is
    shown at 0 for each set of the other labels.
    """

    type: str
    name: str
    help: str
    labels: tuple[int, ...] = ()
    count: Columns | None = None
    total: Columns | None = None
    buckets: Columns | None = None
    bounds: tuple[float, ...] = ()
    mode: str = ""
    less: Columns | None = None
    zero: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Schema:
    """
    What the columns of a row mean. Its line is written once to each key file that has a row of it.

    *width* is the number of values, *stride* that of all columns, with the start time.
    """

    labelnames: tuple[str, ...]
    width: int
    metrics: tuple[Metric, ...]
    stride: int = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", 1 + self.width)
        # Kept, as it takes 2 us, and each row is looked up by its schema.
        object.__setattr__(self, "_hash", hash((self.labelnames, self.width, self.metrics)))

    def __hash__(self) -> int:
        return self._hash


Row = tuple[Schema, tuple[str, ...]]  # and its label values


def counter(
    name: str, help_text: str, labelnames: tuple[str, ...], zero: tuple[str, ...] = (), *, unit: str = ""
) -> Schema:
    return _single("counter", name, help_text, labelnames, 1, count=(0, 1), zero=zero, unit=unit)


def gauge(name: str, help_text: str, labelnames: tuple[str, ...], mode: str, *, unit: str = "") -> Schema:
    # A second column: the most recent modes keep the time of the setting there, in seconds since the epoch; all others
    # that do not just add up whether the slot's owner has the gauge at all, since 0 is no process's minimum.
    width = 1 if mode.endswith(("sum", "starts")) else 2
    return _single("gauge", name, help_text, labelnames, width, count=(0, 1), mode=mode, unit=unit)


def states(name: str, help_text: str, labelnames: tuple[str, ...], names: tuple[str, ...]) -> Schema:
    """Return the schema of an Enum: the ordinal of its state among *names*, and when that was set, 0 if it never was."""
    return _single("stateset", name, help_text, labelnames, 2, count=(0, 1), states=names)


def summary(name: str, help_text: str, labelnames: tuple[str, ...], *, unit: str = "") -> Schema:
    return _single("summary", name, help_text, labelnames, 2, count=(0, 1), total=(1, 2), unit=unit)


def histogram(
    name: str, help_text: str, labelnames: tuple[str, ...], bounds: tuple[float, ...], *, unit: str = ""
) -> Schema:
    width = 1 + len(bounds)
    columns = {"total": (0, 1), "buckets": (1, width)}
    return _single("histogram", name, help_text, labelnames, width, bounds=bounds, unit=unit, **columns)


def _single(
    kind: str, name: str, help_text: str, labelnames: tuple[str, ...], width: int, **fields: Any
) -> Schema:
    """Return the schema of one metric, which has all labels."""
    labels = tuple(range(len(labelnames)))
    return Schema(labelnames, width, (Metric(kind, name, help_text, labels, **fields),))
