"""An application that reads the 100 bytes of each request's body."""

from __future__ import annotations

import io
from typing import Any

from contenders.bare import app

BODY = b"x" * 100


def application() -> Any:
    return posted(reading)


def reading(environ: Any, start_response: Any) -> Any:
    environ["wsgi.input"].read()
    return app(environ, start_response)


def posted(application: Any) -> Any:
    def outer(environ: Any, start_response: Any) -> Any:
        environ["REQUEST_METHOD"] = "POST"
        environ["CONTENT_LENGTH"] = str(len(BODY))
        environ["wsgi.input"] = io.BytesIO(BODY)
        return application(environ, start_response)

    return outer
