"""
Requests that are not measured: those that the settings leave out, and those for the metrics themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsgi_prom.request import MeasuredRequest
from wsgi_prom.routes import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

    from wsgi_prom.recorder import Recorder
    from wsgi_prom.settings import Settings


def exemptions(
    app: WSGIApplication, recorder: Recorder, settings: Settings
) -> Callable[[WSGIEnvironment], WSGIApplication | None] | None:
    """Return what tells who answers a request that is not measured, None for all others. None if all are measured."""
    excluded, metrics_path = settings.exclude, settings.metrics_path
    if excluded is None and metrics_path is None:
        return None
    metrics: WSGIApplication | None = None
    if metrics_path is not None:
        from wsgi_prom.exporter.app import MetricsApp  # noqa: PLC0415 - brings WebOb

        metrics = MetricsApp(settings=settings)

    def unmeasured(environ: WSGIEnvironment) -> WSGIApplication | None:
        if metrics is not None and environ.get("PATH_INFO") == metrics_path:
            request = environ.get(REQUEST)
            if isinstance(request, MeasuredRequest):
                request.dismiss()  # a scrape does not count itself, whoever measures around us
            return metrics
        try:
            return app if excluded is not None and excluded(environ) else None
        except Exception:  # the user's callable
            recorder.fail("exclude")
            return None

    return unmeasured
