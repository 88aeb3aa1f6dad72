"""When a process that cannot record into files tries again, and what it says of that."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.errors import WsgiPromError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger("wsgi_prom")

_RETRY_SECONDS: Final = 1.0  # recording goes on meanwhile; a try costs some microseconds a row
_RETRY_SHARE: Final = 50  # and is a fiftieth of the time at most, with however many rows
# The errors of a full disk, and of a full quota.
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


class Tries:
    """
    The tries of one process, timed by *clock*, which returns seconds. Not for two threads at once.

    Messages wait until `log`: a handler that counts what it logs holds its own lock, and waits for that of whoever tries.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._next = 0.0
        self._problem = ""
        self._failures = 0
        self._messages: list[tuple[Any, ...]] = []

    def due(self) -> bool:
        """Return whether the time for another try has come."""
        return self.clock() >= self._next

    def hasten(self) -> None:
        """Make a try due, unless tries take so long that the pause is for their sake."""
        if self._next - self.clock() <= _RETRY_SECONDS:
            self.reset()

    def reset(self) -> None:
        """Make a try due."""
        self._next = 0.0

    def fail(self, error: Exception, took: float, path: Path | None) -> None:
        """
        Wait after a try that has taken *took* seconds and failed with *error*, and tell a new problem with the directory *path*,
        None if no hook has named it.
        """
        self._next = self.clock() + max(_RETRY_SECONDS, _RETRY_SHARE * took)
        self._failures += 1
        known = isinstance(error, (OSError, WsgiPromError))
        problem = str(error) if known else f"{type(error).__name__}: {error}"
        if problem != self._problem:
            self._problem = problem
            where = remedy = ""
            if isinstance(error, OSError):  # other errors name the directory themselves
                where = f" to {path or 'the shared directory'}"
                remedy = ". Make space there" if error.errno in _FULL else ""
            self.tell(
                logging.ERROR,
                "process %d cannot write its metrics%s (%s); it keeps them in memory and retries every second%s",
                os.getpid(),
                where,
                problem,
                remedy,
            )

    def succeed(self) -> None:
        """Tell the end of a problem."""
        if self._problem:
            self._problem = ""
            self.tell(
                logging.WARNING, "process %d writes its metrics again, with all that it kept", os.getpid()
            )

    def failures(self) -> int:
        """Return how many have failed since the last call."""
        failures, self._failures = self._failures, 0
        return failures

    def tell(self, *message: Any) -> None:
        """Have `log` log *message*: a level, a text, and its values."""
        self._messages.append(message)

    def log(self) -> None:
        """Log what was told."""
        messages, self._messages = self._messages, []
        for level, message, *values in messages:
            log.log(level, message, *values)
