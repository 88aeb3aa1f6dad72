"""Wait for a condition, for a limited time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

# Generous: servers start slowly on a busy machine, and only a failure waits to the end.
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.02

T = TypeVar("T")


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
    deadline = time.monotonic() + timeout
    while True:
        value = read()
        if good(value):
            return value, True
        if time.monotonic() > deadline:
            return value, False
        time.sleep(POLL_SECONDS)
