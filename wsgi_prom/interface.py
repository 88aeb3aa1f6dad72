"""Whether an application is one of WSGI, by the arguments that it takes."""

# Rule 1: nothing of the application's runs: only the code of functions and classes is looked at. A proxy that is asked
#         for its signature (Werkzeug's LocalProxy) makes its application.

from __future__ import annotations

import inspect
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
    function, bound = app, 0
    if isinstance(app, MethodType):
        function, bound = app.__func__, 1
    elif not isinstance(app, FunctionType):
        function, bound = inspect.getattr_static(type(app), "__call__", None), 1
    if not isinstance(function, FunctionType):
        return None
    if inspect.iscoroutinefunction(function):
        return False
    signature = inspect.signature(function, follow_wrapped=False)
    two, three = (_binds(signature, bound + count) for count in (2, 3))
    return None if two and three else two


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
