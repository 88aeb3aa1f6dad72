"""An application that does nothing: the cost of a middleware is largest relative to it."""

from __future__ import annotations

from typing import Any


def app(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
