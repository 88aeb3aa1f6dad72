"""
Servers that are libraries, on a port that the system chooses: `serve("waitress", "protocol:app")`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIApplication


def serve(server: str, reference: str) -> None:
    """
    Serve the application that *reference* names by the library *server*, until the process is ended.
    """
    module, _, name = reference.partition(":")
    SERVERS[server](getattr(importlib.import_module(module), name))


def listening(port: int) -> None:
    # What live.LiveServer waits for.
    print(f"Listening at: http://127.0.0.1:{port} (0)", file=sys.stderr, flush=True)


class PromptHandler(WSGIRequestHandler):
    # As all the other servers have it: of an answer that is sent at once, nothing is lost when the server closes while
    # there is something that it has not read, which resets the connection.
    disable_nagle_algorithm = True


def by_wsgiref(app: WSGIApplication) -> None:
    with make_server("127.0.0.1", 0, app, handler_class=PromptHandler) as server:
        listening(server.server_port)
        server.serve_forever()


def by_waitress(app: WSGIApplication) -> None:
    from waitress.server import create_server

    server = create_server(app, host="127.0.0.1", port=0, threads=2)
    listening(server.effective_port)  # type: ignore[union-attr]
    server.run()


def by_cheroot(app: WSGIApplication) -> None:
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", 0), app, numthreads=2)
    server.prepare()
    listening(server.bind_addr[1])
    server.serve()


SERVERS: dict[str, Callable[[WSGIApplication], None]] = {
    "wsgiref": by_wsgiref,
    "waitress": by_waitress,
    "cheroot": by_cheroot,
}
