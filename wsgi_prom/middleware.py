"""
The middleware: any WSGI application (PEP 3333), measured, and otherwise as it was.
"""

# Rule 1: whatever fails in here is counted, logged once, and kept from the application.
# Rule 2: a list, tuple, bytes or file_wrapper result goes to the server as the same object: it is that object's type
#         that gets a response its Content-Length, or its sendfile.
# Rule 3: what is known to be complete is counted before the server sends the last of it: a worker killed after that
#         has answered, and counted. (Of 60 that were killed right after a Flask answer had arrived, 29 had counted it
#         while that was done in close().)

from __future__ import annotations

from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wsgi_prom import body
from wsgi_prom.recorder import Recorder
from wsgi_prom.request import MeasuredRequest
from wsgi_prom.routes import REQUEST
from wsgi_prom.settings import Settings
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class PrometheusMiddleware:
    """
    Measure *app*: its requests by method, route and status, how long they take, how large they are, how they fail.

    Keywords are the settings of `wsgi_prom.settings.Settings`; they win over the environment. Those that only a
    keyword can give: *labels* as a dict, whose values may be callables on the environ; *exclude* as a callable on the
    environ. With *metrics_path*, requests for that path are answered with the metrics, to whoever reaches the
    application unless *allow*, *token_file* or *users_file* say otherwise.

    Raises SettingError. A request is never affected: thread and fork safe, before and after a server forks.
    """

    def __init__(self, app: WSGIApplication, **settings: Any) -> None:
        found = Settings.read(**settings)
        self._app = app
        self._recorder = _recorder(found)
        self._excluded = found.exclude
        self._metrics_path = found.metrics_path
        self._metrics: WSGIApplication | None = None
        if lease.directory is not None:
            from wsgi_prom.storage import adoption  # noqa: PLC0415 - 56 ms that a single process need not pay

            adoption.install()
        if found.metrics_path is not None:
            from wsgi_prom.exporter.app import MetricsApp  # noqa: PLC0415 - brings WebOb

            self._metrics = MetricsApp(settings=found)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._metrics is not None and environ.get("PATH_INFO") == self._metrics_path:
            if REQUEST in environ:
                environ[REQUEST].dismiss()  # a scrape does not count itself, whoever measures around us
            return self._metrics(environ, start_response)
        # An application that was wrapped by hand and by a hook is measured by the outer one.
        if REQUEST in environ or (self._excluded is not None and self._is_excluded(environ)):
            return self._app(environ, start_response)
        request = MeasuredRequest(self._recorder, environ, start_response, perf_counter())
        try:
            result = self._app(environ, request.start)
        except BaseException as error:
            request.fail(error)
            raise
        kind: type = type(result)
        if kind is list or kind is tuple:
            request.complete(result)
        elif kind is bytes:
            request.complete((result,))
        elif result is None or kind is str:
            request.refused()
        elif not request.is_file(result):
            return body.wrap(result, request)
        return result

    def _is_excluded(self, environ: WSGIEnvironment) -> bool:
        try:
            return bool(self._excluded and self._excluded(environ))
        except Exception:  # the user's callable
            self._recorder.fail("exclude")
            return False


@lru_cache
def _recorder(settings: Settings) -> Recorder:
    # One for all middlewares with the same settings: each keeps a table of its blocks.
    return Recorder(settings)
