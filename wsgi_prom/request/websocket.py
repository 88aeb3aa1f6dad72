"""
Requests that ask for a WebSocket, and others whose connection the application takes from the server.
"""

# Rule 1: these requests are counted and not timed: they last as long as a session, which is no latency of their route.
# Rule 2: the application of a session never calls start_response (simple-websocket, uWSGI), or calls one that sends
#         nothing (gevent-websocket). It leaves by StopIteration under gunicorn (simple_websocket.Server, gunicorn's
#         ThreadWorker and AsyncWorker), and by an OSError where the client has left (uwsgi.websocket_recv).

from __future__ import annotations

import sys
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from wsgi_prom.request.request import MeasuredRequest

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from wsgi_prom.request.schemas import Where


class WebSocketRequest(MeasuredRequest):
    """A request that asks for a WebSocket, whether or not the application answers with one."""

    __slots__ = ()

    def fail(self, error: BaseException) -> None:
        if not _ends_session(error):
            super().fail(error)
        elif hasattr(self, "_status"):
            self.leave()
        else:
            self.switch()

    def abort(self) -> None:
        self.leave()

    def _final(self, status: Any, failed: bool) -> str:
        # The server has answered 101, and sends nothing of what the application says.
        switched = self._environ.get("wsgi.websocket") is not None and str(status) < "4"
        return "101" if not failed and (status is None or switched) else super()._final(status, failed)

    def _record(self, where: Where, status: str, _seconds: float) -> bool:
        return self._recorder.count_untimed(self, where, status)


def asks_for_websocket(environ: WSGIEnvironment) -> bool:
    """Tell whether the request of *environ*, which has an Upgrade header, asks for a WebSocket."""
    return str(environ["HTTP_UPGRADE"]).strip().lower() == "websocket"


def switches(request: MeasuredRequest, result: object) -> bool:
    """
    Tell whether an application that returns *result* has taken the connection from the server. *request* is counted then.
    """
    if hasattr(request, "_status"):
        return False
    if isinstance(request, WebSocketRequest):
        # A generator may still call start_response. All else goes back as it is: a server knows some by their identity.
        taken = type(result) is not GeneratorType
    else:
        workers = sys.modules.get("gunicorn.workers.base_async")
        taken = workers is not None and result is workers.ALREADY_HANDLED
    if taken:
        request.switch()
    return taken


def _ends_session(error: BaseException) -> bool:
    """Tell an exception that ends a session in order from a failure of the application."""
    if isinstance(error, OSError):
        # uWSGI's and gevent-websocket's have a text alone, and the application's a number.
        return isinstance(error, ConnectionError) or error.errno is None
    # And what ends a greenlet or a thread, when its worker ends.
    return isinstance(error, StopIteration) or not isinstance(error, Exception)
