"""`plain:app` with a cache and a spooler of uWSGI's; logs where the server's own options say that its stats server listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plain
import uwsgi

from wsgi_prom.server import uwsgi_stats

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def spool(_task: object) -> int:
    return uwsgi.SPOOL_OK


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/cache":
        uwsgi.cache_update("key", b"value")
        uwsgi.cache_get("key")
        uwsgi.cache_get("missing")
    if environ["PATH_INFO"] == "/spool":
        uwsgi.spool({b"task": b"1"})
    return plain.app(environ, start_response)


uwsgi.spooler = spool
print(f"uwsgi_stated: stats at {uwsgi_stats.address(uwsgi.opt)}", flush=True)
