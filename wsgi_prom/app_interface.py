"""Whether an application is one of WSGI, by the arguments that it takes."""

# Rule 1: nothing of the application's runs: only the code of functions and classes is looked at. A proxy that is asked
#         for its signature (Werkzeug's LocalProxy) makes its application.

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType, MethodType
from typing import Any


def takes_two(app: Any) -> bool | None:
    """
    Return whether *app* is called as WSGI has it: with two arguments, and no other number of them.

    False for an application of ASGI or Tornado, and for a factory that takes another number. None where its code does not
    tell: `*args`, two arguments or three, or a callable in C.
    """
    if not callable(app):  # which asks its class alone
        return False
    if is_asgi(app):
        return False
    function, bound = _function(app)
    if function is None:
        return None
    signature = inspect.signature(function, follow_wrapped=False)
    two, three = (_binds(signature, bound + count) for count in (2, 3))
    return None if two and three else two


def is_asgi(app: Any) -> bool:
    """Return whether a call of *app* is a coroutine, as ASGI has it."""
    while type(app) is partial:
        app = app.func
    return inspect.iscoroutinefunction(_function(app)[0])


def may_be_factory(app: Any) -> bool:
    """
    Return whether *app* is rather called once, without arguments, than for each request.

    A class, unless its objects can be a response (PEP 3333 has applications that are such classes); a function to which
    nothing has to be given, such as `create_app(config=None, debug=False)`.
    """
    if issubclass(type(app), type):
        return not hasattr(app, "__iter__")
    function, bound = _function(app)
    if function is None:
        return False
    signature = inspect.signature(function, follow_wrapped=False)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return _binds(signature, bound) and inspect.Parameter.VAR_POSITIONAL not in kinds


def _function(app: Any) -> tuple[FunctionType | None, int]:
    """Return the function of Python that a call of *app* runs, None if there is none, and how many arguments it has already."""
    function, bound = app, 0
    if isinstance(app, MethodType):
        function, bound = app.__func__, 1
    elif not isinstance(app, FunctionType):
        function, bound = inspect.getattr_static(type(app), "__call__", None), 1
    return (function, bound) if isinstance(function, FunctionType) else (None, 0)


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
