"""Warnings that a process and its children log once."""

from __future__ import annotations

import logging
from functools import lru_cache

log = logging.getLogger("wsgi_prom")


# Bounded: a message may hold the text of an application's error, which differs each time.
@lru_cache(256)
def warn_once(message: str) -> None:
    """Log *message*, unless this process has, or a parent of it before the fork."""
    log.warning("%s", message)
