"""
The middleware, put together: settings, where it records, who answers `metrics_path`, and the application that is measured.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wsgi_prom.request import nesting, signals
from wsgi_prom.request.exemptions import exemptions
from wsgi_prom.request.measurement import measured
from wsgi_prom.request.recorder import Recorder
from wsgi_prom.settings import Settings
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def PrometheusMiddleware(app: WSGIApplication, **settings: Any) -> WSGIApplication:  # noqa: N802 - known as a class
    """
    Measure *app*: its requests by method, route and status, how long they take, how large they are, how they fail.

    Keywords are settings (docs/settings.md) and win over the environment. Only a keyword can give *labels* as a dict,
    whose values may be callables on the environ, and *exclude* as such a callable. With *metrics_path*, requests for that
    path are answered with the metrics, to whoever reaches the application unless *allow*, *token_file* or *web_config*
    say otherwise.

    Raises SettingError, also for a keyword that does nothing here. A request is never affected: thread and fork safe,
    before and after a server forks.
    """
    return _make(app, Settings.of_middleware(settings), explicit=True)


def wrap_for_hook(app: WSGIApplication) -> WSGIApplication:
    """Measure for a server's hook what no `PrometheusMiddleware` inside of *app* does. Raises SettingError."""
    return app if nesting.is_explicit(app) else _make(app, Settings.read(), explicit=False)


def _make(app: WSGIApplication, settings: Settings, *, explicit: bool) -> WSGIApplication:
    recorder = _recorder(settings)
    if current_slot.directory is not None:
        from wsgi_prom.client import patch  # noqa: PLC0415 - 56 ms that a single process need not pay

        patch.install()
    if explicit or not nesting.explicit():
        # Else the hook's is shown once it has counted a request: it may be that none is left for it.
        recorder.rows.show_in_progress()
    signals.watch(app)
    metrics: WSGIApplication | None = None
    if settings.metrics_path is not None:
        from wsgi_prom.exporter.app import MetricsApp  # noqa: PLC0415 - brings WebOb

        metrics = MetricsApp(settings=settings)
    exempt = exemptions(app, recorder, settings, metrics, explicit=explicit)
    middleware = measured(app, recorder, exempt, explicit=explicit)
    if explicit:
        nesting.add(middleware, settings)
    return middleware


# One for all middlewares with the same settings: each keeps a table of its rows.
_recorder = lru_cache(Recorder)
