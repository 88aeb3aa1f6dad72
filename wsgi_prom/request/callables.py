"""How an application is called."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def has_method(app: WSGIApplication) -> bool:
    """
    Tell whether *app* is an object of a class with a `__call__` in Python, as Flask's and Django's are.

    `app.__call__(...)` takes 850 instructions less than `app(...)`, which does the same by way of C, and another loop of
    the interpreter. Both find what the class has at that moment, which others replace when they please (an attribute
    of that name that the object itself gets later, the former alone: nobody has a reason to set one).
    """
    kind = type(app)
    try:
        function = kind.__call__
        return (
            # First: another descriptor's code would run below (werkzeug's LocalProxy would make its application now).
            type(function) is FunctionType
            # What it makes up, or has as an attribute of its own, is not what a call finds.
            and kind.__getattribute__ is vars(object)["__getattribute__"]
            and getattr(object.__getattribute__(app, "__call__"), "__func__", None) is function
        )
    except Exception:  # of a metaclass, or there is none
        return False
