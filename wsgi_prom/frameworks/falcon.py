"""
Falcon's routes and exceptions. Add the middleware anywhere in the list:

    app = falcon.App(middleware=[wsgi_prom.frameworks.falcon.RouteMiddleware()])

The label is the URI template. Falcon does not report which sink or static route took a request: let a sink call
`wsgi_prom.set_route(req.env, ...)`.

Falcon answers an exception without a handler itself and does not report it. To count these exceptions:

    app.add_error_handler(Exception, wsgi_prom.frameworks.falcon.count_exception)
"""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

from wsgi_prom.request.routes import publish
from wsgi_prom.request.signals import note_exception


class RouteMiddleware:
    """Publish the route of each request as soon as Falcon has matched it."""

    def process_resource(self, req: Any, *_: Any) -> None:
        _publish(req)

    def process_response(self, req: Any, *_: Any) -> None:
        # Another middleware may have ended the request before process_resource.
        _publish(req)


def count_exception(req: Any, _resp: Any, error: Exception, _params: Any) -> NoReturn:
    """Count *error*, log it and answer 500, as Falcon does for an exception without a handler."""
    note_exception(req.env, error)
    req.log_error("".join(traceback.format_exception(error)))
    raise sys.modules["falcon"].HTTPInternalServerError


def _publish(req: Any) -> None:
    template = req.uri_template
    if isinstance(template, str):
        publish(req.env, template)
