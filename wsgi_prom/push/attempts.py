"""How long a receiver over HTTP is tried, and what is lost of a reading in several requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from wsgi_prom import retrying
from wsgi_prom.push.sender import PushError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Event

    from wsgi_prom.errors import WsgiPromError

T = TypeVar("T")
Batch = TypeVar("Batch")

_LONGEST_PAUSE: Final = 5.0


def retried(function: Callable[[], T], deadline: float, ended: Event) -> T:
    """
    Call *function* until it returns, and return that.

    Raises its PushError that is lasting, and the last one before the *deadline* (time.monotonic) or once *ended*.
    """

    def pause_after(error: WsgiPromError, pause: float) -> float | None:
        if not isinstance(error, PushError) or error.lasting:
            return None
        pause = max(pause, error.pause)
        return pause if time.monotonic() + pause < deadline else None

    return retrying.retried(function, ended, _LONGEST_PAUSE, pause_after)


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
