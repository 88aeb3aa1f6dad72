"""An application behind a proxy that names the trace of each request, which is sampled."""

from __future__ import annotations

from typing import Any

from contenders.bare import app


def application() -> Any:
    return traced(app, sampled=True)


def traced(wrapped: Any, *, sampled: bool) -> Any:
    header = f"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{'01' if sampled else '00'}"

    def with_header(environ: Any, start_response: Any) -> Any:
        environ["HTTP_TRACEPARENT"] = header
        return wrapped(environ, start_response)

    return with_header
