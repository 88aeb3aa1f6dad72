"""The application that a reference names: `module:callable`, as WSGI_PROM_APP has it."""

from __future__ import annotations

import importlib
from functools import reduce
from typing import TYPE_CHECKING

from wsgi_prom.errors import SettingError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def load(reference: str | None, name: str = "WSGI_PROM_APP") -> WSGIApplication:
    """
    Import the application that *reference* names; *name* is what messages call the reference.

    Raises SettingError if there is no reference or no such thing, and whatever the import itself raises.
    """
    if reference is None:
        raise SettingError(f"{name} is not set. Set it to MODULE:CALLABLE, such as myapp:app.")
    module_name, _, path = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise SettingError(f"{name}={reference!r}: there is no module {error.name!r} on sys.path.") from error
    try:
        app: WSGIApplication = reduce(getattr, path.split("."), module)  # type: ignore[assignment]
    except AttributeError as error:
        raise SettingError(f"{name}={reference!r}: module {module_name!r} has no {path!r}.") from error
    if not callable(app):
        raise SettingError(f"{name}={reference!r} is no WSGI application: it cannot be called.")
    return app
