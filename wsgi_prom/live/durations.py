"""
Durations as a histogram counts them, and their quantiles, as PromQL's `histogram_quantile` computes them.

A quantile beyond the highest finite bound is not a number: all that is known is that it is above that bound.
"""

from __future__ import annotations

import math
from array import array
from operator import add, le, sub
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Quantile(NamedTuple):
    """A number of *seconds*; the quantile is that, or anything *above* it."""

    seconds: float
    above: bool = False


class Durations(NamedTuple):
    """
    The *counts* of durations up to each of *bounds*, the last of which is infinity, and their sum in *seconds*.
    """

    bounds: tuple[float, ...]
    counts: array[float]
    seconds: float

    def plus(self, other: Durations) -> Durations | None:
        """Return both together, None if their bounds differ: two versions of an application during a reload."""
        if self.bounds != other.bounds:
            return None
        return Durations(
            self.bounds, array("d", map(add, self.counts, other.counts)), self.seconds + other.seconds
        )

    def since(self, before: Durations | None) -> Durations:
        """Return what came after *before*: all of it if there was nothing, or if it has begun again."""
        if before is None or before.bounds != self.bounds or before.counts[-1] > self.counts[-1]:
            return self
        counts = array("d", map(sub, self.counts, before.counts))
        return Durations(self.bounds, counts, max(self.seconds - before.seconds, 0.0))

    def quantile(self, share: float) -> Quantile | None:
        """Return the quantile of a *share* above 0 and up to 1; None without durations, or without a finite bound."""
        total = self.counts[-1] if self.counts else 0.0
        if len(self.bounds) < 2 or total <= 0:
            return None
        rank = share * total
        low, below = min(0.0, self.bounds[0]), 0.0
        for high, count in zip(self.bounds[:-1], self.counts, strict=False):
            if count >= rank and count > below:
                return Quantile(low + (high - low) * (rank - below) / (count - below))
            low, below = high, count
        return Quantile(self.bounds[-2], above=True)


def together(found: Iterable[Durations]) -> Durations | None:
    """Return all durations of *found* in one, None if there are none, or if their bounds differ."""
    total: Durations | None = None
    for durations in found:
        total = durations if total is None else total.plus(durations)
        if total is None:
            break
    return total


def of_counts(bounds: tuple[float, ...], counts: Iterable[float], seconds: float) -> Durations | None:
    """
    Return the durations of cumulative *counts* up to each of *bounds*, None if they are none: they sink, or are not finite.
    """
    found = array("d", counts)
    rising = all(map(le, found, found[1:]))  # False for NaN
    if not (
        found and bounds[-1] == math.inf and rising and found[0] >= 0 and math.isfinite(found[-1] + seconds)
    ):
        return None
    return Durations(bounds, found, seconds)
