"""An ASGI application, which the WSGI middleware must not touch; run as `asgi:app` by gunicorn's asgi worker."""

from __future__ import annotations

from typing import Any


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"asgi"})
