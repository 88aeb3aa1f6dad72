"""The application that all others without a framework wrap: two bytes."""

from __future__ import annotations

from typing import Any


def application() -> Any:
    return app


def app(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
