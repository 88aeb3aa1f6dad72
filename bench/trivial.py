"""The application that does nothing, in front of which any middleware looks its worst."""

from __future__ import annotations

from typing import Any


def app(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
