"""Attempts with growing pauses, until one succeeds or its caller gives up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeVar

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

T = TypeVar("T")

# Seconds: a receiver that is started again is back after one or two.
_FIRST_PAUSE: Final = 0.2
# Of many hosts not all ask at once.
_JITTER: Final = 0.5


def retried(
    function: Callable[[], T],
    ended: Event,
    longest: float,
    pause_after: Callable[[WsgiPromError, float], float | None],
) -> T:
    """
    Call *function* until it returns, and return that. The pauses between attempts grow up to *longest* seconds.

    *pause_after* gets each WsgiPromError that it raises, and the next pause; it returns the pause to make, or None to give up. The error
    is raised then, and once *ended*: after that there is no further attempt.
    """
    growing = _FIRST_PAUSE
    while True:
        try:
            return function()
        except WsgiPromError as error:
            pause = pause_after(error, growing + random.uniform(0, _JITTER))  # noqa: S311 - no secret
            if pause is None or ended.wait(pause):
                raise
        growing = min(2 * growing, longest)
