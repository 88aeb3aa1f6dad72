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
    Call *read* until *good* accepts its value or *timeout* seconds have passed. Returns the last value, good or not.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = read()
        if good(value) or time.monotonic() > deadline:
            return value
        time.sleep(POLL_SECONDS)
