"""WebSockets in each of the ways that there are on WSGI servers; run as `websockets:app`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from flask import Flask, request
from flask_sock import Sock

if TYPE_CHECKING:
    from collections.abc import Iterable

flask_app = Flask(__name__)
sock = Sock(flask_app)


@flask_app.get("/plain")
def plain() -> str:
    return "ok"


@sock.route("/echo")
def echo(ws: Any) -> None:
    while True:
        ws.send(ws.receive())


@sock.route("/fail")
def fail(ws: Any) -> None:
    raise ValueError(ws.receive())


@flask_app.route("/gevent", websocket=True)
def gevent_websocket() -> str:
    # Of gevent-websocket's worker, which has upgraded the connection before it calls the application.
    ws = request.environ["wsgi.websocket"]
    while (message := ws.receive()) is not None:
        ws.send(message)
    return "not sent"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes] | None:
    path = environ["PATH_INFO"]
    if path not in {"/uwsgi", "/uwsgi/fail"}:
        return flask_app(environ, start_response)
    uwsgi: Any = sys.modules["uwsgi"]
    environ["wsgi_prom.route"] = path
    uwsgi.websocket_handshake()
    while True:
        # Raises OSError when the client leaves.
        message = uwsgi.websocket_recv()
        if path == "/uwsgi/fail":
            raise ValueError(message)
        uwsgi.websocket_send(message)
