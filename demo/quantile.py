"""Quantiles of a histogram, computed as PromQL's `histogram_quantile` does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def histogram_quantile(quantile: float, buckets: Mapping[float, float]) -> float:
    """
    Return the *quantile*, above 0 and up to 1, of cumulative counts by upper bound, the last of which is infinity.

    Values are taken to be spread evenly within a bucket; the lowest one starts at 0. Beyond the highest finite bound
    the answer is that bound. NaN if there is no value, or no finite bound.
    """
    bounds = sorted(buckets)
    if len(bounds) < 2 or bounds[-1] != math.inf or buckets[math.inf] == 0:
        return math.nan
    rank = quantile * buckets[math.inf]
    low, below = min(0.0, bounds[0]), 0.0
    for high in bounds[:-1]:
        count = buckets[high]
        if count >= rank:
            return low + (high - low) * (rank - below) / (count - below)
        low, below = high, count
    return bounds[-2]
