"""
Django's routes: anywhere in the settings' MIDDLEWARE,

    MIDDLEWARE = ["wsgi_prom.frameworks.django.RouteMiddleware", ...]

The label is the route of the URLconf, as `request.resolver_match.route` has it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction  # Django's own dependency

from wsgi_prom.request.routes import publish

if TYPE_CHECKING:
    from collections.abc import Callable

# Of a URLconf that nobody makes anew for each request.
_MOST_ROUTES: Final = 1024

# Of AttributeErrors: no URL pattern matched (404, APPEND_SLASH's redirect, an answer of another middleware's), or this is
# under ASGI; of TypeErrors: a match that somebody has made by hand.
_NO_ROUTE: Final = (AttributeError, TypeError)

# The end of a regular expression, where it is not a literal "$" or "\Z".
_END: Final = re.compile(r"(?<!\\)((?:\\\\)*)(?:\$|\\[Zz])$")


def RouteMiddleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:  # noqa: N802 - as Django names them
    """
    Publish the route of a request when its response comes back.

    Sync and async, so that no other middleware is adapted because of it. Under ASGI it does nothing.
    """

    async def asynchronous(request: Any) -> Any:
        try:
            return await get_response(request)
        finally:
            with suppress(*_NO_ROUTE):
                publish(request.environ, template(request.resolver_match.route))

    def synchronous(request: Any) -> Any:
        try:
            return get_response(request)
        finally:  # also where DEBUG_PROPAGATE_EXCEPTIONS lets the view's exception through
            # Not in a function for both: a call less.
            try:  # noqa: SIM105 - which takes 4,000 instructions
                publish(request.environ, template(request.resolver_match.route))
            except _NO_ROUTE:
                pass

    return asynchronous if iscoroutinefunction(get_response) else synchronous


RouteMiddleware.sync_capable = RouteMiddleware.async_capable = True  # type: ignore[attr-defined]


@lru_cache(_MOST_ROUTES)
def template(route: str) -> str:
    r"""
    Return *route* as the path that it stands for: with its leading slash, and without the anchors of a `re_path`.

    The groups stay as they are: `users/(?P<pk>\d+)/` and `users/(?P<pk>\w+)/` are two routes.
    """
    route = "/" + route.removeprefix("^")
    return _END.sub(r"\1", route) if route.endswith(("$", "Z", "z")) else route
