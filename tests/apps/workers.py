"""A gunicorn worker that is none of gunicorn's own, and serves WSGI: `--worker-class workers.PlainWorker`."""

from __future__ import annotations

import select
from typing import ClassVar
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from gunicorn.workers.base import Worker


class Handler(WSGIRequestHandler):
    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if self.parse_request():
            handler = ServerHandler(self.rfile, self.wfile, self.get_stderr(), self.get_environ())
            handler.request_handler = self  # type: ignore[attr-defined]
            handler.run(self.server.wsgi)  # type: ignore[attr-defined]


class PlainWorker(Worker):
    """One request at a time, by the standard library's handler."""

    base_environ: ClassVar[dict[str, str]] = {}

    def run(self) -> None:
        self.server_name = "plain"
        while self.alive:
            self.notify()
            ready, _, _ = select.select(self.wait_fds, [], [], 1.0)
            for listener in self.sockets:
                if listener.sock in ready or listener in ready:
                    client, address = listener.accept()
                    client.setblocking(True)
                    with client:
                        Handler(client, address, self)  # type: ignore[arg-type]
