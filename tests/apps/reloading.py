"""An application that has its uWSGI reload itself; server tests run it as `reloading:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/reload":
        import uwsgi

        uwsgi.reload()
    return plain.app(environ, start_response)
