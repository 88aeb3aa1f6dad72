"""Retries with growing pauses, by tenacity."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from wsgi_prom.discovery.etcd import EtcdError

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

log = logging.getLogger("wsgi_prom")

T = TypeVar("T")

# Seconds. As soon as etcd is back, the targets are to be: it takes some ten thousand requests a second.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
# Of many hosts not all at once.
_JITTER: Final = 1.0


def retried(function: Callable[[], T], ended: Event, *told: str) -> T | None:
    """
    Call *function* until it returns, and return that; None once *ended*.

    Each EtcdError that it raises is logged once, and not if it is among *told*.
    """
    import tenacity

    known = set(told)

    def tell(state: Any) -> None:
        error = state.outcome.exception()
        if str(error) not in known:
            known.add(str(error))
            level = logging.ERROR if error.lasting else logging.WARNING
            log.log(level, "%s. It is tried again every %d s", error, _LONGEST_PAUSE)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(EtcdError),
        wait=tenacity.wait_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE)
        + tenacity.wait_random(0, _JITTER),
        stop=tenacity.stop_when_event_set(ended),
        sleep=tenacity.sleep_using_event(ended),
        before_sleep=tell,
        retry_error_callback=lambda _: None,
    )
    found: T | None = retrying(function)
    return found
