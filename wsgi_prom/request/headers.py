"""
Lengths and times from the headers of a request and a response. A client may send any value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import WSGIEnvironment

_MOST_DIGITS: Final = 16

# A longer wait comes from a wrong clock or a made-up header.
_LONGEST_QUEUE_SECONDS: Final = 3600.0

# The unit follows from the size of the number: seconds since the epoch have ten digits until the year 2286.
_MILLISECONDS_FROM: Final = 1e11
_MICROSECONDS_FROM: Final = 1e14


def content_length(headers: Iterable[tuple[str, str]]) -> int | None:
    """Return the Content-Length of a response, None if it is missing or not a number."""
    try:
        for name, value in headers:
            # The usual spelling first: it saves the call of lower().
            if name == "Content-Length" or name.lower() == "content-length":
                return int(value) if value.isdigit() and len(value) < _MOST_DIGITS else None
    except (AttributeError, TypeError, ValueError):
        return None  # headers of a wrong type: the server refuses them
    return None


def must_lack_body(method: str, status: str) -> bool:
    """Tell whether HTTP forbids a body for this response. Some servers send it all the same."""
    return method == "HEAD" or status[:3] in {"204", "304"} or status[:1] == "1"


def drops_body(environ: WSGIEnvironment, method: str, *, file: bool) -> bool:
    """
    Tell whether the server drops the body of a response that `must_lack_body`. *file*: the body is of its file_wrapper.

    gunicorn drops every such body from 26.1 on (http/wsgi.py, _response_omits_body). waitress drops it for the status, not
    for HEAD, and not if it is a file (task.py, has_body). uWSGI, wsgiref, cheroot and older gunicorns send it.
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
    Return the seconds since a proxy took the request; None if no header tells them, or the value is not plausible.

    `X-Request-Start` and `X-Queue-Start` are seconds, milliseconds or microseconds since the epoch, with or without `t=`
    before them (nginx, Heroku, New Relic). *now* is in seconds since the epoch. The clocks of two machines may differ: a
    time up to a second in the future counts as 0.
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
