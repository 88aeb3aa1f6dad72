"""Whether a gunicorn worker calls its application as WSGI has it: by what both are, for anybody can write a worker."""

# Rule 1: nothing of the application's runs: only the code of functions and classes is looked at. A proxy that is asked
#         for its signature (Werkzeug's LocalProxy) makes its application.

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import Any


def serves_wsgi(worker: Any) -> bool:
    """
    Tell whether *worker* serves the application in its attribute `wsgi` as WSGI has it.

    The application decides where its arguments do: two for WSGI; one or three, or a coroutine, for ASGI, and one for
    Tornado's own kind. Where they do not (`*args` of a decorator, a callable in C), a worker that has coroutines serves no WSGI.
    """
    takes_two = _takes_two(getattr(worker, "wsgi", None))
    if takes_two is not None:
        return takes_two
    found = (item for kind in type(worker).__mro__ for item in vars(kind).values())
    return not any(inspect.iscoroutinefunction(item) for item in found)


def _takes_two(app: object) -> bool | None:
    """Return whether *app* is called with two arguments, and no other number of them; None where its code does not tell."""
    function, bound = app, 0
    if isinstance(app, MethodType):
        function, bound = app.__func__, 1
    elif not isinstance(app, FunctionType):
        function, bound = inspect.getattr_static(type(app), "__call__", None), 1
    if not isinstance(function, FunctionType):
        return False if app is None else None
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
