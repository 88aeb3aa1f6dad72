"""Retries with growing pauses, by tenacity, for as long as a reading is worth it; and what is lost of a reading in several requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from wsgi_prom.push.road import PushError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Event

T = TypeVar("T")
Batch = TypeVar("Batch")

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


def send_each(batches: Iterable[tuple[Batch, int]], post: Callable[[Batch], None]) -> None:
    """
    Call *post* with each of *batches*, which come with the number of their samples.

    A batch that the receiver refuses for good is lost, and the others go. If it is away, the rest is lost. Raises PushError then.
    """
    left = list(batches)
    lost, problem = 0, None
    while left:
        batch, size = left.pop(0)
        try:
            post(batch)
        except PushError as error:
            problem = error
            lost += size if error.lost is None else error.lost
            if not error.lasting:
                lost += sum(size for _, size in left)
                break
    if problem is not None:
        raise PushError(str(problem), lost=lost, lasting=problem.lasting)
