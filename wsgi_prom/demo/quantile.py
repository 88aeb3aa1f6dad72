"""Quantiles of a histogram, as PromQL's `histogram_quantile` works them out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def histogram_quantile(quantile: float, buckets: Mapping[float, float]) -> float:
    """
    Return the *quantile*, above 0 and up to 1, of cumulative counts by upper bound, the last of which is infinity.

    Within a bucket the values are taken to be spread evenly; the lowest starts at 0. Nothing is known beyond the
    highest finite bound, which is the answer there. NaN if there is no value, or no finite bound.
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
