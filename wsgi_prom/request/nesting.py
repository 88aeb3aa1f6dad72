"""
Which of several middlewares measures a request: the innermost explicit one, or none if that one excludes the request.

A middleware is explicit if the user wrote `PrometheusMiddleware`. A server's hook makes the others.

1. A middleware puts its request into environ (REQUEST), where a middleware inside of it finds it. A copy of environ has it too.
2. An explicit middleware dismisses the request of the one outside. A hook's middleware measures only if environ has no such
   key: its value, even None, says that another middleware has decided about the request.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.request import MeasuredRequest
from wsgi_prom.request.routes import REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.settings import Settings

# The explicit middlewares that are in use in this process, with their settings.
_explicit: Final[dict[weakref.ref[Any], Settings]] = {}


def add(middleware: Any, settings: Settings) -> None:
    """Register an explicit *middleware*. Thread safe."""
    _explicit[weakref.ref(middleware, lambda gone: _explicit.pop(gone, None))] = settings


def all_explicit() -> list[Settings]:
    """Return the settings of each explicit middleware. Thread safe."""
    return list(_explicit.values())


def is_explicit(app: object) -> bool:
    """Tell whether *app* itself is an explicit middleware. Thread safe."""
    return any(middleware() is app for middleware in list(_explicit))


def takes_over(request: MeasuredRequest, environ: WSGIEnvironment) -> bool:
    """
    Tell whether *request* is measured although *environ* has REQUEST.

    Its value is the request of a middleware outside, or None if that request is over. Never raises.
    """
    if not request.explicit:
        return False
    outer = environ[REQUEST]
    if isinstance(outer, MeasuredRequest):
        if isinstance(outer, type(request)) and outer.token is not None:
            return False  # the application calls itself, by the same middleware, for a part of its answer
        outer.recorder.dismiss(outer)
    return True


def exempted(
    app: WSGIApplication,
    middleware: WSGIApplication,
    recorder: Recorder,
    settings: Settings,
    metrics: WSGIApplication | None,
    *,
    explicit: bool,
) -> WSGIApplication:
    """
    Return *middleware*, which measures *app*, without the requests that the *settings* exclude, and those for the metrics.

    *metrics* answers `metrics_path`. *explicit* is False for a hook's middleware: the settings of an explicit one, inside or
    outside, win.
    """
    if settings.exclude is None and metrics is None:
        return middleware

    def with_exemptions(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not explicit and REQUEST in environ:
            return middleware(environ, start_response)
        # An explicit middleware may admit fewer readers, or have another metrics_path.
        if environ.get("PATH_INFO") == settings.metrics_path and (
            explicit or _all_admit_readers_of(settings)
        ):
            answering = metrics
        else:
            answering = app if _excludes(settings, environ, recorder) else None
        if answering is None:
            return middleware(environ, start_response)
        _leave_out(environ, recorder)
        return answering(environ, start_response)

    return with_exemptions


def _excludes(settings: Settings, environ: WSGIEnvironment, recorder: Recorder) -> bool:
    try:
        return settings.exclude is not None and bool(settings.exclude(environ))
    except Exception:  # the user's callable
        recorder.report_failure("exclude")
        return False


def _all_admit_readers_of(settings: Settings) -> bool:
    """Tell whether each explicit middleware has the metrics_path of *settings*, for the same readers."""

    def readers(found: Settings) -> tuple[object, ...]:
        return found.metrics_path, found.allow, found.token_file, found.web_config

    return all(readers(other) == readers(settings) for other in all_explicit())


def _leave_out(environ: WSGIEnvironment, recorder: Recorder) -> None:
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
