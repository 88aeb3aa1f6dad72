"""
Requests that are not measured: those that the settings leave out, and those for the metrics themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom.request import nesting
from wsgi_prom.request.routes import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder
    from wsgi_prom.settings import Settings


def exemptions(
    app: WSGIApplication,
    recorder: Recorder,
    settings: Settings,
    metrics: WSGIApplication | None,
    *,
    explicit: bool,
) -> Callable[[WSGIEnvironment], WSGIApplication | None] | None:
    """
    Return what tells who answers a request that is not measured, None for all others. None if all are measured.

    *metrics* answers `metrics_path`. *explicit* is False for a hook's middleware, whose settings lose against those of a middleware inside or outside.
    """
    excluded, metrics_path = settings.exclude, settings.metrics_path
    if excluded is None and metrics_path is None:
        return None

    def answers(environ: WSGIEnvironment) -> WSGIApplication | None:
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

    def unmeasured(environ: WSGIEnvironment) -> WSGIApplication | None:
        if not explicit and REQUEST in environ:
            return None
        other = answers(environ)
        if other is not None:
            nesting.leave_out(environ, recorder)
        return other

    return unmeasured


def _readers(settings: Settings) -> tuple[object, ...]:
    return settings.metrics_path, settings.allow, settings.token_file, settings.web_config
