"""
Middlewares around each other in one process, of which one measures a request: the innermost that somebody wrote.
"""

# Rule 1: a middleware enters its request in environ, where a middleware inside of it finds the entry. The entry survives
#         a copy of environ.
# Rule 2: a middleware that somebody wrote dismisses the request of the one outside. A hook's measures only where it is
#         the first: whatever is in environ, even None, is of a middleware that has decided about the request.

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.request import MeasuredRequest
from wsgi_prom.request.routes import REQUEST

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.settings import Settings

# The middlewares that somebody wrote, as far as they are in use in this process, with their settings.
_explicit: Final[dict[weakref.ref[Any], Settings]] = {}


def add(middleware: Any, settings: Settings) -> None:
    """Add a *middleware* that somebody wrote to those of this process. Thread safe."""
    _explicit[weakref.ref(middleware, lambda gone: _explicit.pop(gone, None))] = settings


def explicit() -> list[Settings]:
    """Return the settings of each middleware that somebody wrote. Thread safe."""
    return list(_explicit.values())


def is_explicit(app: object) -> bool:
    """Tell whether *app* itself is a middleware that somebody wrote. Thread safe."""
    return any(middleware() is app for middleware in list(_explicit))


def takes_over(request: MeasuredRequest, environ: WSGIEnvironment) -> bool:
    """
    Tell whether *request* is measured although *environ* has an entry.

    The entry is the request of a middleware outside, or None if there was one that is over. Never raises.
    """
    if not request.explicit:
        return False
    outer = environ[REQUEST]
    if isinstance(outer, MeasuredRequest):
        if isinstance(outer, type(request)) and outer.token is not None:
            return False  # the application calls itself, by the same middleware, for a part of its answer
        outer.recorder.dismiss(outer)
    return True


def leave_out(environ: WSGIEnvironment, recorder: Recorder) -> None:
    """
    Keep each middleware outside, and a hook's inside, from measuring the request of *environ*.

    *recorder* is that of the middleware which leaves it out. Never raises.
    """
    outer = environ.get(REQUEST)
    if isinstance(outer, MeasuredRequest):
        if outer.recorder is recorder and outer.token is not None:
            return  # the application calls itself for a part of its answer
        outer.recorder.dismiss(outer)
    environ[REQUEST] = None
