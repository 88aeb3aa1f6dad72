"""Wait for a condition, for a limited time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

# Generous: servers start slowly on a busy machine, and only a failure waits to the end.
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0

# The first looks follow each other fast; then the pause is a part of what has passed, so that a wait is at most that much longer,
# and who waits leaves the processor to what is waited for.
_SHORTEST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.15
_PART: Final = 1 / 8

T = TypeVar("T")


def pause(since: float) -> None:
    """
    Sleep until the next look at what has been waited for since the monotonic time *since*.
    """
    passed = time.monotonic() - since
    time.sleep(min(max(_SHORTEST_PAUSE, passed * _PART), _LONGEST_PAUSE))


def eventually(read: Callable[[], T], good: Callable[[T], object], timeout: float = START_SECONDS) -> T:
    """
    Call *read* until *good* accepts its value, and return that. Raises AssertionError after *timeout* seconds.
    """
    value, accepted = _wait(read, good, timeout)
    if not accepted:
        raise AssertionError(f"the last value after {timeout:g} s is {value!r}")
    return value


def latest(read: Callable[[], T], good: Callable[[T], object], timeout: float = START_SECONDS) -> T:
    """
    Call *read* until *good* accepts its value or *timeout* seconds have passed. Returns the last value, good or not.
    """
    return _wait(read, good, timeout)[0]


def _wait(read: Callable[[], T], good: Callable[[T], object], timeout: float) -> tuple[T, bool]:
    began = time.monotonic()
    while True:
        value = read()
        if good(value):
            return value, True
        if time.monotonic() > began + timeout:
            return value, False
        pause(began)
