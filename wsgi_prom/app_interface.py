"""
Tell a WSGI application from an ASGI application or a factory, by its signature.

1. None of the application's code runs: only the code of functions and classes is read. Asking a proxy for its signature
   (Werkzeug's LocalProxy) would make its application.
"""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType, MethodType
from typing import Any


def takes_two(app: Any) -> bool | None:
    """
    Tell whether *app* takes two arguments, as a WSGI application does, and no other number.

    False for an application of ASGI or Tornado, and for a factory that takes another number. None if the signature does not
    tell: `*args`, two arguments or three, or a callable in C.
    """
    if not callable(app):  # looks at the class only
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
    """Tell whether *app* is a coroutine function, as an ASGI application is."""
    while type(app) is partial:
        app = app.func
    return inspect.iscoroutinefunction(_function(app)[0])


def may_be_factory(app: Any) -> bool:
    """
    Tell whether *app* looks like a factory, which is called once without arguments and returns the application.

    That is a class, unless its objects are iterable (an application may be such a class: PEP 3333), or a function without
    required arguments, such as `create_app(config=None, debug=False)`.
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
    """
    Return the Python function that a call of *app* runs, None if there is none, and the number of arguments already bound.
    """
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
