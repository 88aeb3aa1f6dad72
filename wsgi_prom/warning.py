"""Warnings that a process and its children log once."""

from __future__ import annotations

import logging
from functools import cache

log = logging.getLogger("wsgi_prom")


@cache
def warn_once(message: str) -> None:
    """Log *message*, unless this process has, or a parent of it before the fork."""
    log.warning("%s", message)
