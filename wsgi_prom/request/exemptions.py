"""
Requests that are not measured: those that the settings leave out, and those for the metrics themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom.request import nesting
from wsgi_prom.request.routes import REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.settings import Settings


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
    Return *middleware*, which measures *app*, without the requests that the *settings* except.

    *metrics* answers `metrics_path`. *explicit* is False for a hook's middleware, whose settings lose against those of a
    middleware inside or outside.
    """
    excluded, metrics_path = settings.exclude, settings.metrics_path
    if excluded is None and metrics_path is None:
        return middleware

    def other(environ: WSGIEnvironment) -> WSGIApplication | None:
        """Return the application that answers a request which is not measured, None for all others."""
        # A middleware that somebody wrote may admit fewer readers, or have the metrics elsewhere.
        if environ.get("PATH_INFO") == metrics_path and (
            explicit or all(_readers(other) == _readers(settings) for other in nesting.explicit())
        ):
            return metrics
        try:
            return app if excluded is not None and excluded(environ) else None
        except Exception:  # the user's callable
            recorder.fail("exclude")
            return None

    def with_exemptions(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not explicit and REQUEST in environ:
            return middleware(environ, start_response)
        found = other(environ)
        if found is None:
            return middleware(environ, start_response)
        nesting.leave_out(environ, recorder)
        return found(environ, start_response)

    return with_exemptions


def _readers(settings: Settings) -> tuple[object, ...]:
    return settings.metrics_path, settings.allow, settings.token_file, settings.web_config
