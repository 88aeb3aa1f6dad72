"""
A request through all that stands around a Flask application, which ends before any of the application's functions is called.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

from wsgi_prom.request.routes import REQUEST
from wsgi_prom.request.signals import reaches_flask_unchanged


class _ReachedError(BaseException):
    """Raised in Flask's first signal of a request, and no Exception: no error handler takes it."""


def is_seen(app: Any, flask_app: Any) -> bool | None:
    """
    Tell whether what is measured around *app* gets as far as *flask_app*; None if a request for / does not get there.

    No request is made where all that stands around Flask is known to hand on its environ. Otherwise middleware, and any
    other application that answers /, is called as for any request; Flask opens the session, matches the path, and calls
    nothing but the functions that it has for a request's end.
    """
    if reaches_flask_unchanged(app, sys.modules["flask"].Flask):
        return True
    found: list[bool] = []

    def reached(_sender: Any, **_: Any) -> None:
        found.append(sys.modules["flask"].request.environ.get(REQUEST) is not None)
        raise _ReachedError

    environ: dict[str, Any] = {"PATH_INFO": "/", "SCRIPT_NAME": ""}
    setup_testing_defaults(environ)
    environ[REQUEST] = SimpleNamespace(entered="/", _environ=environ, note=lambda _exception: None)
    signal = sys.modules["flask"].request_started
    signal.connect(reached, sender=flask_app, weak=False)
    try:
        with redirect_stdout(sys.stderr):
            app(environ, lambda *_: lambda _data: None)
    except (_ReachedError, Exception):  # noqa: S110 - of a middleware, which is not asked about
        pass
    finally:
        signal.disconnect(reached, sender=flask_app)
    return found[0] if found else None
