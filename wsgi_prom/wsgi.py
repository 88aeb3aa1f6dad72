"""
`wsgi_prom.wsgi:application`: the application that WSGI_PROM_APP names (`myapp:app`), measured. For any server.
"""

from __future__ import annotations

import importlib
from functools import reduce
from typing import TYPE_CHECKING

from wsgi_prom.errors import SettingError
from wsgi_prom.middleware import PrometheusMiddleware
from wsgi_prom.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def load(reference: str | None) -> WSGIApplication:
    """
    Import the application that *reference* (`module:callable`) names.

    Raises SettingError if there is no reference or no such thing, and whatever the import itself raises.
    """
    if reference is None:
        raise SettingError("WSGI_PROM_APP is not set. Set it to MODULE:CALLABLE, such as myapp:app.")
    module_name, _, path = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise SettingError(
            f"WSGI_PROM_APP={reference!r}: there is no module {error.name!r} on sys.path."
        ) from error
    try:
        app: WSGIApplication = reduce(getattr, path.split("."), module)  # type: ignore[assignment]
    except AttributeError as error:
        raise SettingError(f"WSGI_PROM_APP={reference!r}: module {module_name!r} has no {path!r}.") from error
    if not callable(app):
        raise SettingError(f"WSGI_PROM_APP={reference!r} is no WSGI application: it cannot be called.")
    return app


application = PrometheusMiddleware(load(Settings.read().app))
