"""
The middleware, put together: settings, a recorder, the application that answers `metrics_path`, and the one that is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from wsgi_prom.request import nesting, signals
from wsgi_prom.request.measurement import measured
from wsgi_prom.request.recorder import Recorder
from wsgi_prom.settings import Settings
from wsgi_prom.store.claims import Stage
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class Keywords(TypedDict, total=False):
    """The keywords of `PrometheusMiddleware`. None stands for the environment's value, or the default."""

    metrics_path: str | None
    prefix: str | None
    names: str | None
    disable: str | Sequence[str] | None
    buckets: str | Sequence[float] | None
    queue_buckets: str | Sequence[float] | None
    first_byte: bool | str | None
    cpu: bool | str | None
    exemplars: bool | str | None
    status_class: bool | str | None
    labels: str | Mapping[str, str | Callable[[dict[str, Any]], object]] | None
    exclude: str | Sequence[str] | Callable[[dict[str, Any]], object] | None
    label_limit: int | str | None
    allow: str | Sequence[str] | None
    token_file: str | None
    web_config: str | None


def PrometheusMiddleware(app: WSGIApplication, **settings: Unpack[Keywords]) -> WSGIApplication:
    """
    Measure *app*: its requests by method, route and status, how long they take, how large they are, how they fail.

    Each keyword wins over the environment variable of its name, such as WSGI_PROM_PREFIX (docs/settings.md):

    metrics_path: a path of the application that shows the metrics too; off by default.
    prefix: before the name of each request metric, such as "shop_"; default "".
    names: what the metrics and labels are called, "prometheus" or "otel"; default "prometheus".
    disable: names of metrics to leave out; default none.
    buckets: upper bounds of the duration histogram, in seconds, rising; default 0.005 to 10.
    queue_buckets: the same for the time in the proxy's queue; default 0.001 to 60.
    first_byte: whether to measure the time to the first byte too; default False.
    cpu: whether to measure the processor time too; default False.
    exemplars: whether the trace of a request is added to its duration; default False.
    status_class: whether the duration has a label status_class, such as "2xx"; default False.
    labels: more labels, by name: a value, or a callable on the environ that returns one; default none.
    exclude: regular expressions for whole paths that are not measured, or a callable on the environ; default none.
    label_limit: label sets that a metric may have in all processes, the rest is OTHER; default 1000.
    allow: addresses and networks that may read metrics_path, such as "10.0.0.0/8"; default everybody.
    token_file: the absolute path of a file with a bearer token for metrics_path; default none.
    web_config: the absolute path of a web configuration, for the users who may read metrics_path; default none.

    Raises SettingError, also for a keyword that does nothing here. A request is never affected. Thread and fork safe,
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
    if explicit or not nesting.all_explicit():
        # A hook's middleware around explicit ones may have no request left to measure: its gauge appears with the first one.
        recorder.rows.show_in_progress()
    signals.watch(app)
    metrics: WSGIApplication | None = None
    if settings.metrics_path is not None:
        from wsgi_prom.exporter.app import MetricsApp  # noqa: PLC0415 - brings WebOb

        metrics = MetricsApp(settings=settings)
    middleware = measured(app, recorder, explicit=explicit)
    middleware = nesting.exempted(app, middleware, recorder, settings, metrics, explicit=explicit)
    if current_slot.fork_guard[1] and current_slot.stage is Stage.BOOTING:
        # uWSGI with lazy-apps tells nobody when a worker's application is loaded.
        current_slot.tell_stage(Stage.SERVING)
        if "uwsgi" in sys.modules:  # gunicorn's hook is called when all of it is loaded
            from wsgi_prom.server import app_info  # noqa: PLC0415 - for workers alone

            app_info.tell()
    if explicit:
        nesting.add(middleware, settings)
    return middleware


# One for all middlewares with the same settings: each keeps a table of its rows.
_recorder = lru_cache(Recorder)
