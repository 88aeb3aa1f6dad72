"""
Which route took a request: the template that the framework matched, never the path that the client sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KEY: Final = "wsgi_prom.route"

# A request that no route took, or whose framework does not say which one did.
UNMATCHED: Final = "unmatched"


def set_route(environ: WSGIEnvironment, template: str) -> None:
    """
    Say which route takes the request: *template* becomes its `route` label.

    Give a template of the application's (`/users/<id>`), not the path: each value is a series of its own. Call it
    before the response starts, in the thread of the request.
    """
    environ[KEY] = template


def find_route(environ: WSGIEnvironment) -> str:
    """
    Return the route of a request that has got as far as `start_response`.

    Later is too late: Flask has cleared its request by the time that the application returns.
    """
    template = environ.get(KEY)
    if template is not None:
        return template if isinstance(template, str) else UNMATCHED
    request = environ.get("werkzeug.request")
    if request is not None:
        rule = getattr(request, "url_rule", None)
        if rule is not None:
            return f"{environ.get('SCRIPT_NAME', '')}{rule.rule}"
    return UNMATCHED
