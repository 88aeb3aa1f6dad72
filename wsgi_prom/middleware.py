"""
The middleware: any WSGI application (PEP 3333), measured, and otherwise as it was.
"""

# Rule 1: whatever fails in here is counted, logged once, and kept from the application: the calls into `Recorder`
#         are the only ones that can fail, and each is guarded.
# Rule 2: a list, tuple, bytes or file_wrapper result goes to the server as the same object: it is that object's type
#         that gets a response its Content-Length, or its sendfile.
# Rule 3: what is known to be complete is counted before the server sends the last of it: a worker killed after that
#         has answered, and counted. (Of 60 that were killed right after a Flask answer had arrived, 29 had counted it
#         while that was done in close().)

from __future__ import annotations

from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom import body
from wsgi_prom.catalog import METHODS, OTHER, Recorder
from wsgi_prom.routes import UNMATCHED, find_route
from wsgi_prom.settings import Settings
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# An application that was wrapped by hand and by a hook is measured by the outer one.
_KEY: Final = "wsgi_prom.request"


class PrometheusMiddleware:
    """
    Measure *app*: requests by method, route and status, their duration, those in progress, exceptions.

    Keywords are the settings of `wsgi_prom.settings.Settings`; they win over the environment. With *metrics_path*,
    requests for that path are answered with the metrics, by anyone's leave who reaches the application.

    Raises SettingError. A request is never affected: thread and fork safe, before and after a server forks.
    """

    def __init__(self, app: WSGIApplication, **settings: Any) -> None:
        found = Settings.read(**settings)
        self._app = app
        self._recorder = _recorder(found)
        self._metrics_path = found.metrics_path
        self._metrics: WSGIApplication | None = None
        if lease.directory is not None:
            from wsgi_prom.storage import adoption  # noqa: PLC0415 - 56 ms that a single process need not pay

            adoption.install()
        if found.metrics_path is not None:
            from wsgi_prom.exporter.app import MetricsApp  # noqa: PLC0415 - brings WebOb

            self._metrics = MetricsApp()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._metrics is not None and environ.get("PATH_INFO") == self._metrics_path:
            if _KEY in environ:
                environ[_KEY].dismiss()  # a scrape does not count itself, whoever measures around us
            return self._metrics(environ, start_response)
        if _KEY in environ:
            return self._app(environ, start_response)
        request = _Request(self._recorder, environ, start_response)
        environ[_KEY] = request
        try:
            result = self._app(environ, request.start)
        except BaseException as error:
            request.fail(error)
            raise
        kind: type = type(result)
        if kind is list or kind is tuple or kind is bytes or request.is_file(result):
            request.finish()
            return result
        return body.wrap(result, request)


class _Request:
    """One request, from the call of the application to the end of its response."""

    __slots__ = (
        "_environ",
        "_file",
        "_file_wrapper",
        "_headers",
        "_length",
        "_passed",
        "_recorder",
        "_route",
        "_start_response",
        "_started",
        "_status",
        "_token",
    )

    def __init__(self, recorder: Recorder, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._started = perf_counter()
        self._recorder = recorder
        self._environ = environ
        self._start_response = start_response
        self._status: Any = None
        self._route: str | None = None
        self._headers: Any = ()
        self._passed = 0
        self._length: int | None = None
        self._file: object = None
        self._file_wrapper = environ.get("wsgi.file_wrapper")
        if self._file_wrapper is not None and not isinstance(self._file_wrapper, type):
            # uWSGI's is a function that hands back the file itself: nothing shows on it that it was wrapped.
            environ["wsgi.file_wrapper"] = self._wrap_file
        self._token: object = None
        try:
            self._token = recorder.enter()
        except Exception:
            recorder.fail("enter")

    def start(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        """Be the application's start_response."""
        write = self._start_response(status, headers, *exc_info)
        self._status = status
        self._headers = headers
        # Not later: Flask has cleared its request when it returns (werkzeug.request is None then).
        self._route = self._find_route()
        return write

    def is_file(self, result: object) -> bool:
        """Whether *result* is what the server's own file_wrapper made."""
        wrapper = self._file_wrapper
        if isinstance(wrapper, type):
            return isinstance(result, wrapper)
        return result is not None and result is self._file

    def passed(self, chunk: bytes) -> None:
        """Be told of a chunk of the body, before the server gets it."""
        try:
            if not chunk:
                return  # the server sends the headers with the first chunk that is not empty (PEP 3333)
            if not self._passed:
                self._length = _content_length(self._headers)
            self._passed += len(chunk)
            if self._length is not None and self._passed >= self._length:
                self.finish()
        except Exception:
            self._recorder.fail("body")

    def finish(self) -> None:
        """Count the request as answered. Calls after the first do nothing, and so with `fail`."""
        status = self._status
        self._leave(status[:3] if isinstance(status, str) else "500", None)

    def fail(self, error: BaseException) -> None:
        """Count the request as one that raised *error*."""
        # As long as no byte of the body went out, the server answers 500 whatever start_response was told.
        status = self._status
        self._leave(status[:3] if self._passed and isinstance(status, str) else "500", type(error))

    def dismiss(self) -> None:
        """Do not count the request."""
        token, self._token = self._token, None
        self._recorder.dismiss(token)

    def _leave(self, status: str, exception: type[BaseException] | None) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        seconds = perf_counter() - self._started
        recorder = self._recorder
        try:
            method = self._environ["REQUEST_METHOD"]
            if method not in METHODS:
                method = OTHER
            route = self._route or self._find_route()
            recorder.leave(token, (method, route, status), seconds)
            if exception is not None:
                recorder.count_exception(method, route, exception)
        except Exception:
            recorder.fail("record")

    def _find_route(self) -> str:
        try:
            return find_route(self._environ)
        except Exception:  # a framework's object, or the application's
            self._recorder.fail("route")
            return UNMATCHED

    def _wrap_file(self, *arguments: Any) -> object:
        self._file = self._file_wrapper(*arguments)  # type: ignore[misc]
        return self._file


def _content_length(headers: Iterable[tuple[str, str]]) -> int | None:
    return next((int(value) for name, value in headers if name.lower() == "content-length"), None)


@lru_cache
def _recorder(settings: Settings) -> Recorder:
    # One for all middlewares with the same settings: each keeps a table of its blocks.
    return Recorder(settings)
