"""
Falcon's routes: anywhere in the application's middleware,

    app = falcon.App(middleware=[wsgi_prom.frameworks.falcon.RouteMiddleware()])

The label is the URI template. Falcon does not say which sink or static route took a request: a sink calls
`wsgi_prom.set_route(req.env, ...)` itself.
"""

from __future__ import annotations

from typing import Any

from wsgi_prom.routes import publish


class RouteMiddleware:
    """Publish the route of a request, as soon as there is one."""

    def process_resource(self, req: Any, resp: Any, resource: Any, params: Any) -> None:  # noqa: ARG002 - Falcon's
        _publish(req)

    def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:  # noqa: ARG002
        # For a request that another middleware answered or refused before this one had its turn.
        _publish(req)


def _publish(req: Any) -> None:
    template = req.uri_template
    if isinstance(template, str):
        publish(req.env, template)
