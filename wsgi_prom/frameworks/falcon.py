"""
Falcon's routes: anywhere in the application's middleware,

    app = falcon.App(middleware=[wsgi_prom.frameworks.falcon.RouteMiddleware()])

The label is the URI template. Falcon does not say which sink or static route took a request: a sink calls
`wsgi_prom.set_route(req.env, ...)` itself.

Falcon answers an exception that no handler takes by itself, and tells nobody. To have these counted:

    app.add_error_handler(Exception, wsgi_prom.frameworks.falcon.count_exception)
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

from wsgi_prom.request.routes import publish
from wsgi_prom.request.signals import note


class RouteMiddleware:
    """Publish the route of a request, as soon as there is one."""

    def process_resource(self, req: Any, resp: Any, resource: Any, params: Any) -> None:  # noqa: ARG002 - Falcon's
        _publish(req)

    def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:  # noqa: ARG002
        # For a request that another middleware answered or refused before this one had its turn.
        _publish(req)


def count_exception(req: Any, resp: Any, error: Exception, params: Any) -> NoReturn:  # noqa: ARG001 - Falcon's
    """Count *error*, and answer it as Falcon does without a handler of the application's: logged, with a 500."""
    note(req.env, error)
    req.log_error("".join(traceback.format_exception(error)))
    raise sys.modules["falcon"].HTTPInternalServerError


def _publish(req: Any) -> None:
    template = req.uri_template
    if isinstance(template, str):
        publish(req.env, template)
