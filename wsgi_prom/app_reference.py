"""The application that a reference names: `module:callable` or `module:factory()`, as WSGI_PROM_APP has it."""

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
_REFERENCE: Final = re.compile(rf"({_NAMES}):({_NAMES})(\(.*\))?", re.DOTALL)


class Reference(NamedTuple):
    """A reference's parts. *arguments* are those of the factory's call, None where the application itself is named."""

    module: str
    path: str
    arguments: tuple[list[Any], dict[str, Any]] | None


def parse(reference: str) -> Reference:
    """Take *reference* apart, without importing anything. Raises ValueError if it is none."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ValueError(reference)
    module, path, call = found.groups()
    return Reference(module, path, _arguments(call) if call else None)


def load(reference: str | None, name: str = "WSGI_PROM_APP") -> WSGIApplication:
    """
    Import the application that *reference* names, or the factory, and call that; *name* is what messages call the reference.

    Raises SettingError if there is no reference, no such thing, or a factory that is not called or is called with the
    wrong arguments, and whatever the import and the factory raise themselves.
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
            raise  # the module is there, and something that it imports is not
        raise SettingError(f"{name}={reference!r}: there is no module {error.name!r} on sys.path.") from error
    try:
        found: Any = reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise SettingError(f"{name}={reference!r}: module {module_name!r} has no {path!r}.") from error
    if not callable(found):
        raise SettingError(f"{name}={reference!r} is no WSGI application: it cannot be called.")
    app = found if arguments is None else _made(found, arguments, f"{name}={reference!r}")
    if takes_two(app) is False:
        made = "" if arguments is None else f"what {path} returns "
        if is_asgi(app):
            raise SettingError(
                f"{name}={reference!r}: {made}is an ASGI application. Name one of WSGI: wsgi_prom measures no other."
            )
        remedy = f" If it makes the application, name its call: {module_name}:{path}()." if not made else ""
        raise SettingError(
            f"{name}={reference!r}: {made}does not take environ and start_response, as a WSGI application does.{remedy}"
        )
    return app  # type: ignore[no-any-return]


def _arguments(call: str) -> tuple[list[Any], dict[str, Any]]:
    import ast  # noqa: PLC0415 - 5 ms, for those who call a factory

    try:
        expression = ast.parse(f"call{call}", mode="eval").body
    except SyntaxError as error:
        raise ValueError(call) from error
    if not isinstance(expression, ast.Call) or not isinstance(expression.func, ast.Name):
        raise ValueError(call)  # noqa: TRY004 - a value, which is a text
    keywords = {item.arg: ast.literal_eval(item.value) for item in expression.keywords if item.arg}
    if len(keywords) < len(expression.keywords):
        raise ValueError(call)
    return [ast.literal_eval(item) for item in expression.args], keywords


def _made(factory: Any, arguments: tuple[list[Any], dict[str, Any]], told: str) -> Any:
    positional, keywords = arguments
    try:
        return factory(*positional, **keywords)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # in the factory
        raise SettingError(f"{told}: {error}.") from error
