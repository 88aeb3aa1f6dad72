"""Warnings that a process and its children log once."""

from __future__ import annotations

import logging
from typing import Final

# Bounded: a message may hold a name of the application's.
_MOST: Final = 1000
# What this process has logged, or a parent of it before the fork.
told: Final[set[str]] = set()

log = logging.getLogger("wsgi_prom")


def warn_once(message: str, reason: object = "") -> None:
    """Log *message*, unless it is in `told`; with the *reason* of the first time, which may be another each time."""
    if message not in told and len(told) < _MOST:
        told.add(message)
        log.warning("%s", f"{message} ({reason})" if reason else message)
