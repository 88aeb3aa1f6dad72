"""Calls of etcd that are repeated until it answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, TypeVar

from wsgi_prom import retrying
from wsgi_prom.discovery.etcd import EtcdError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

    from wsgi_prom.errors import WsgiPromError

log = logging.getLogger("wsgi_prom")

T = TypeVar("T")

# Seconds. As soon as etcd is back, the targets are to be: it takes some ten thousand requests a second.
_LONGEST_PAUSE: Final = 10.0
# Messages of one outage.
_MOST_TOLD: Final = 20


def retried(function: Callable[[], T], ended: Event, *told: str) -> T | None:
    """
    Call *function* until it returns, and return that; None once *ended*.

    Each EtcdError that it raises is logged once, and not if it is among *told*.
    """
    known = set(told)

    def pause_after(error: WsgiPromError, pause: float) -> float:
        if str(error) not in known and len(known) < _MOST_TOLD:
            known.add(str(error))
            level = logging.ERROR if getattr(error, "lasting", False) else logging.WARNING
            log.log(level, "%s. It is tried again every %d s", error, _LONGEST_PAUSE)
        return pause

    try:
        return retrying.retried(function, ended, _LONGEST_PAUSE, pause_after)
    except EtcdError:
        return None
