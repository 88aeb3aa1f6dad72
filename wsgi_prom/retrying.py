"""Attempts with growing pauses, by tenacity, until one succeeds or its caller gives up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

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
    import tenacity

    growing = tenacity.wait_exponential(multiplier=_FIRST_PAUSE, max=longest) + tenacity.wait_random(
        0, _JITTER
    )
    last: list[WsgiPromError] = []

    def pause(state: Any) -> float:
        last[:] = [state.outcome.exception()]
        found = pause_after(last[0], growing(state))
        return math.inf if found is None else found

    def sleep(seconds: float) -> None:
        # tenacity's own sleep_using_event is followed by one more attempt.
        if ended.wait(seconds):
            raise last[0]

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(WsgiPromError),
        wait=pause,
        stop=lambda state: math.isinf(state.upcoming_sleep),
        sleep=sleep,
        reraise=True,
    )
    found: T = retrying(function)
    return found
