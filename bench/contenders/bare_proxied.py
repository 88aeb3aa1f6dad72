"""The plain application behind a proxy that tells when it took the request."""

from __future__ import annotations

import time
from typing import Any

from contenders.bare import app

STARTED = f"t={time.time():.3f}"


def application() -> Any:
    return proxied(app)


def proxied(application: Any) -> Any:
    def outer(environ: Any, start_response: Any) -> Any:
        environ["HTTP_X_REQUEST_START"] = STARTED
        return application(environ, start_response)

    return outer
