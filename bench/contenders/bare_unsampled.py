"""An application behind a proxy that names the trace of each request, of which none is sampled."""

from __future__ import annotations

from typing import Any

from contenders.bare import app
from contenders.bare_sampled import traced


def application() -> Any:
    return traced(app, sampled=False)
