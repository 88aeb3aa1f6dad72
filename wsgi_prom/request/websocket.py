"""
Requests that ask for a WebSocket, and others whose connection the application takes from the server.

1. They are counted and not timed: they last as long as a session, which is no latency of their route.
2. The application of a session does not call start_response (simple-websocket, uWSGI), or calls one that sends nothing
   (gevent-websocket). It ends by StopIteration under gunicorn (simple_websocket.Server, gunicorn's ThreadWorker and
   AsyncWorker), and by an OSError after the client has left (uwsgi.websocket_recv).
"""

from __future__ import annotations

import sys
from types import GeneratorType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def asks_for_websocket(environ: WSGIEnvironment) -> bool:
    """Tell whether the request of *environ*, which has an Upgrade header, asks for a WebSocket."""
    return str(environ["HTTP_UPGRADE"]).strip().lower() == "websocket"


def takes_connection(result: object, *, websocket: bool) -> bool:
    """
    Tell whether an application that returns *result*, and has not called start_response, has taken the connection.

    *websocket* tells whether the request asked for that.
    """
    if websocket:
        # A generator may still call start_response. All else goes back as it is: a server knows some by their identity.
        return type(result) is not GeneratorType
    workers = sys.modules.get("gunicorn.workers.base_async")
    return workers is not None and result is workers.ALREADY_HANDLED


def ends_session(error: BaseException) -> bool:
    """Tell whether *error* is the orderly end of a session, and no failure of the application."""
    if isinstance(error, OSError):
        # uWSGI's and gevent-websocket's have a text alone, and the application's a number.
        return isinstance(error, ConnectionError) or error.errno is None
    # Not an Exception: GreenletExit or SystemExit, when the worker ends.
    return isinstance(error, StopIteration) or not isinstance(error, Exception)
