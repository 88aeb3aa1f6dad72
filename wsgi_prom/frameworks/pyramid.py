"""
Pyramid's routes: in the configuration, before or after its views,

    config.include("wsgi_prom.frameworks.pyramid")

The label is the route's pattern. A view found by traversal has none, and its path is made of data: there it is the
class of the context and the view's name, `/{Folder}/edit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.routes import publish

if TYPE_CHECKING:
    from collections.abc import Callable

# By which `wsgi-prom check` finds it among the view derivers.
DERIVER: Final = "wsgi_prom_route"


def includeme(config: Any) -> None:
    # Outside of the check of permissions: a view that may not be shown was found all the same.
    config.add_view_deriver(_published, DERIVER, under="INGRESS", over="secured_view")


def _published(view: Callable[[Any, Any], Any], _info: Any) -> Callable[[Any, Any], Any]:
    # A view and not an event: the view's name is a registered one only where a view was found by it.
    def published(context: Any, request: Any) -> Any:
        # The view of an exception is no route: either the route was published, or there was none.
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
