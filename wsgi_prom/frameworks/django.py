"""
Django's routes. Add the middleware anywhere in the settings:

    MIDDLEWARE = ["wsgi_prom.frameworks.django.RouteMiddleware", ...]

The label is the route of the URLconf (`request.resolver_match.route`).
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

# More than the routes of a URLconf. Bounds the cache if an application makes routes for each request.
_MOST_ROUTES: Final = 1024

# AttributeError: no URL pattern matched (404, APPEND_SLASH's redirect, a response of another middleware), or the request
# came by ASGI. TypeError: the application has set a resolver_match of its own.
_NO_ROUTE: Final = (AttributeError, TypeError)

# The anchor at the end of a regular expression, unless it is escaped.
_END: Final = re.compile(r"(?<!\\)((?:\\\\)*)(?:\$|\\[Zz])$")


def RouteMiddleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """
    Publish the route of each request once the view has returned.

    Sync and async: Django need not adapt other middleware because of it. It has no effect under ASGI.
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
        finally:  # after an exception too, which DEBUG_PROPAGATE_EXCEPTIONS lets through
            try:  # noqa: SIM105 - suppress() takes 4,000 instructions
                publish(request.environ, template(request.resolver_match.route))
            except _NO_ROUTE:
                pass

    return asynchronous if iscoroutinefunction(get_response) else synchronous


RouteMiddleware.sync_capable = RouteMiddleware.async_capable = True  # type: ignore[attr-defined]


@lru_cache(_MOST_ROUTES)
def template(route: str) -> str:
    r"""
    Return *route* as a path: with a leading slash, and without the anchors of a `re_path`.

    Groups stay: `users/(?P<pk>\d+)/` and `users/(?P<pk>\w+)/` are two routes.
    """
    route = "/" + route.removeprefix("^")
    return _END.sub(r"\1", route) if route.endswith(("$", "Z", "z")) else route
