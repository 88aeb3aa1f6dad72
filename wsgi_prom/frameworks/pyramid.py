"""
Pyramid's routes. Include this module in the configuration, before or after the views:

    config.include("wsgi_prom.frameworks.pyramid")

The label is the route's pattern. A view found by traversal has no pattern, and its path is made of data; its label is the
class of the context and the view's name, `/{Folder}/edit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.routes import publish

if TYPE_CHECKING:
    from collections.abc import Callable

# The name by which `wsgi-prom check` finds the view deriver.
DERIVER: Final = "wsgi_prom_route"


def includeme(config: Any) -> None:
    # Before permissions are checked: a request whose view is forbidden has a route too.
    config.add_view_deriver(_published, DERIVER, under="INGRESS", over="secured_view")


def _published(view: Callable[[Any, Any], Any], _info: Any) -> Callable[[Any, Any], Any]:
    # A view deriver and not an event: request.view_name is a client's text unless a view of that name was found.
    def published(context: Any, request: Any) -> Any:
        # An exception view is not a route. Its request's route was published before, if there was one.
        if not isinstance(context, Exception):
            publish(request.environ, _template(context, request))
        return view(context, request)

    return published


def _template(context: Any, request: Any) -> str:
    route = getattr(request, "matched_route", None)
    if route is not None:
        return f"/{route.pattern.lstrip('/')}"
    name = getattr(request, "view_name", "")
    return f"/{{{type(context).__name__}}}/{name}" if name else f"/{{{type(context).__name__}}}"
