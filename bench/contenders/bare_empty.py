"""An application whose responses have no body."""

from __future__ import annotations

from typing import Any


def application() -> Any:
    return app


def app(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("204 No Content", [])
    return [b""]
