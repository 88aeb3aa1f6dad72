"""
The column of the requests in progress: their number, and for a request that is alone, when it began.

    0        none
    above    the start of the only request, in seconds of the monotonic clock
    below    minus the number of requests; when each of them began is not known

One column and not two, since each request would pay for the stores into the second.
"""

from __future__ import annotations


def number(column: float) -> int:
    """Return how many requests are in progress."""
    return 1 if column > 0 else int(-column)


def start(column: float) -> float | None:
    """
    Return when the only request in progress began, by `time.monotonic()`; None if there is none, or where it is not known.
    """
    return column if column > 0 else None
