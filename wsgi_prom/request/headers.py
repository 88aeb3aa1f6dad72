"""
What the headers of a request and response tell of lengths and times: figures that a client may have made up.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import WSGIEnvironment

_MOST_DIGITS: Final = 16

# A request that waited longer was not waiting: its clock is wrong, or its header is made up.
_LONGEST_QUEUE_SECONDS: Final = 3600.0

# The header's unit by its size: seconds since the epoch have ten digits until the year 2286.
_MILLISECONDS_FROM: Final = 1e11
_MICROSECONDS_FROM: Final = 1e14


def content_length(headers: Iterable[tuple[str, str]]) -> int | None:
    """Return the Content-Length of a response, None where there is none, or no number."""
    for name, value in headers:
        # As nearly everybody spells it, and otherwise.
        if name == "Content-Length" or name.lower() == "content-length":
            return int(value) if value.isdigit() and len(value) < _MOST_DIGITS else None
    return None


def told_length(headers: Iterable[tuple[str, str]], fail: Callable[[str], None]) -> int:
    """Return the Content-Length of a response, `sys.maxsize` without a valid one. *fail* counts an exception. Never raises."""
    try:
        length = content_length(headers)
        if length is not None:
            return length
    except (AttributeError, TypeError, ValueError):
        # (Not by `suppress`, which takes 4,000 instructions.)
        pass  # not told, or in a form that is for the server to refuse
    except Exception:  # of a container of the application's own
        fail("body")
    return sys.maxsize


def may_lack_body(method: str, status: str) -> bool:
    """Tell whether HTTP has no body for this response. Some servers send one all the same."""
    return method == "HEAD" or status[:3] in {"204", "304"} or status[:1] == "1"


def drops_body(environ: WSGIEnvironment, method: str, *, file: bool) -> bool:
    """
    Tell whether the server of *environ* drops the body of a response that `may_lack_body`. *file*: of its file_wrapper.

    gunicorn drops each from 26.1 on (http/wsgi.py, _response_omits_body); waitress that of a status, unless it is a
    file's (task.py, has_body). uWSGI, wsgiref, cheroot and older gunicorns send what they are given.
    """
    if "waitress.client_disconnected" in environ:
        return method != "HEAD" and not file
    name, _, version = str(environ.get("SERVER_SOFTWARE")).partition("/")
    return name == "gunicorn" and _release(version) >= (26, 1)


@lru_cache(8)
def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def queue_seconds(environ: WSGIEnvironment, now: float) -> float | None:
    """
    Return how long a request waited since its proxy took it, None where that is not told, or not to be believed.

    `X-Request-Start` and `X-Queue-Start` are seconds, milliseconds or microseconds since the epoch, with or without
    `t=` before them (nginx, Heroku, New Relic). *now* are seconds since the epoch. Clocks of two machines differ by a
    little: what seems to come from the next second has not waited.
    """
    value = environ.get("HTTP_X_REQUEST_START") or environ.get("HTTP_X_QUEUE_START")
    if not value:
        return None
    try:
        started = float(value.strip().removeprefix("t="))
    except ValueError:
        return None
    if started >= _MICROSECONDS_FROM:
        started /= 1e6
    elif started >= _MILLISECONDS_FROM:
        started /= 1e3
    waited = now - started
    if not -1.0 <= waited <= _LONGEST_QUEUE_SECONDS:  # NaN too
        return None
    return max(waited, 0.0)
