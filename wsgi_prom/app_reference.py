"""
Parse and import a reference to an application, such as WSGI_PROM_APP: `module:callable` or `module:factory(literals)`.

A module alone is `module:application`, as gunicorn and uWSGI read it: `gunicorn project.wsgi` is how Django's users write it.
"""

from __future__ import annotations

import importlib
import re
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.app_interface import is_asgi, takes_two
from wsgi_prom.errors import SettingError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_NAMES: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_REFERENCE: Final = re.compile(rf"({_NAMES})(?::({_NAMES})(\(.*\))?)?", re.DOTALL)


class Reference(NamedTuple):
    """The parts of a reference. *arguments* are those of the factory's call; None if the reference names the application."""

    module: str
    path: str
    arguments: tuple[list[Any], dict[str, Any]] | None


def parse(reference: str) -> Reference:
    """Parse *reference*, without importing anything. Raises ValueError if it is not a reference."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(reference)
    module, path, call = match.groups()
    return Reference(module, path or "application", _arguments(call) if call else None)


def load(reference: str | None, name: str = "WSGI_PROM_APP") -> WSGIApplication:
    """
    Import and return the application that *reference* names; call it first if it is a factory. Messages call the reference
    *name*.

    Raises SettingError if the reference is missing or wrong, if it names no application, or if a factory takes other
    arguments. An exception of the import or of the factory itself passes through.
    """
    if reference is None:
        raise SettingError(f"{name} is not set. Set it to MODULE:CALLABLE, such as myapp:app.")
    try:
        module_name, path, arguments = parse(reference)
    except ValueError:
        raise SettingError(
            f"{name}={reference!r} is neither MODULE:CALLABLE nor MODULE:FACTORY(LITERALS)."
        ) from None
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists; one that it imports does not
        raise SettingError(f"{name}={reference!r}: there is no module {error.name!r} on sys.path.") from error
    try:
        target: Any = reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise SettingError(f"{name}={reference!r}: module {module_name!r} has no {path!r}.") from error
    if not callable(target):
        raise SettingError(f"{name}={reference!r} is not a WSGI application: it cannot be called.")
    app = target if arguments is None else _call(target, arguments, f"{name}={reference!r}")
    if takes_two(app) is False:
        made = "" if arguments is None else f"the result of {path} "
        if is_asgi(app):
            raise SettingError(
                f"{name}={reference!r}: {made}is an ASGI application. wsgi_prom measures WSGI applications only: name one."
            )
        remedy = f" If it is a factory, name its call: {module_name}:{path}()." if not made else ""
        raise SettingError(
            f"{name}={reference!r}: {made}does not take environ and start_response, as a WSGI application does.{remedy}"
        )
    return app  # type: ignore[no-any-return]


def _arguments(call: str) -> tuple[list[Any], dict[str, Any]]:
    import ast  # noqa: PLC0415 - takes 5 ms, for factories only

    try:
        expression = ast.parse(f"call{call}", mode="eval").body
    except SyntaxError as error:
        raise ValueError(call) from error
    match expression:
        case ast.Call(func=ast.Name()) if all(keyword.arg for keyword in expression.keywords):
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in expression.keywords}
            return [ast.literal_eval(argument) for argument in expression.args], keywords
    raise ValueError(call)


def _call(factory: Any, arguments: tuple[list[Any], dict[str, Any]], subject: str) -> Any:
    positional, keywords = arguments
    try:
        return factory(*positional, **keywords)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # by the factory, not by its call
        raise SettingError(f"{subject}: {error}.") from error
