"""
An application that is measured: any WSGI application (PEP 3333), and otherwise as it was.

1. A failure in here is counted, logged once, and kept from the application.
2. A list, tuple, bytes or file_wrapper result goes to the server as the same object: by its type a server knows whether to
   add a Content-Length, or to use sendfile.
3. A response that is complete is counted before the server sends the last of it: a worker killed after that has answered,
   and counted. (Of 60 workers killed right after a Flask answer had arrived, 29 had counted it when close() counted.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_prom.request.nesting import takes_over
from wsgi_prom.request.recorder import begin_of
from wsgi_prom.request.request import MeasuredRequest
from wsgi_prom.request.response import respond
from wsgi_prom.request.routes import REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from wsgi_prom.request.recorder import Recorder


def measured(app: WSGIApplication, recorder: Recorder, *, explicit: bool) -> WSGIApplication:
    """
    Return *app*, measured by *recorder*.

    *explicit* is False for a server's hook, which measures only what no middleware inside does.
    """
    begin, record = begin_of(recorder), recorder.record

    # A class for each middleware: its requests are told from those of a middleware around it.
    class Request(MeasuredRequest):
        __slots__ = ()

    Request.recorder, Request.explicit = recorder, explicit

    def middleware(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request()
        if REQUEST in environ and not takes_over(request, environ):
            return app(environ, start_response)
        environ[REQUEST] = request
        request.start_response = start_response
        try:
            begin(request, environ)
            result: Any = app(environ, request.start)
            if type(result) is list and len(result) == 1:
                record(request, result[0])
                return result
            return respond(request, result)  # type: ignore[no-any-return]
        except BaseException as error:  # of a signal handler too
            request.fail(error)
            raise

    return middleware
