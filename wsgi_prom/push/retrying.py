"""Retries with growing pauses, by tenacity, for as long as a reading is worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from wsgi_prom.push.road import PushError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

T = TypeVar("T")

# Seconds: a receiver that is started again is back after one or two; of many hosts not all ask at once.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
_JITTER: Final = 0.5


def retried(function: Callable[[], T], seconds: float, ended: Event) -> T:
    """
    Call *function* until it returns, and return that. Raises its PushError that is lasting, and the last one after *seconds*.

    Once *ended* there is no further attempt.
    """
    import tenacity

    growing = tenacity.wait_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE) + tenacity.wait_random(
        0, _JITTER
    )

    def wait(state: Any) -> float:
        return float(max(growing(state), state.outcome.exception().pause))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, PushError) and not error.lasting),
        wait=wait,
        stop=tenacity.stop_any(tenacity.stop_before_delay(seconds), tenacity.stop_when_event_set(ended)),
        sleep=tenacity.sleep_using_event(ended),
        reraise=True,
    )
    found: T = retrying(function)
    return found
