"""
Which route took a request: the template that the framework matched, never the path that the client sent.
"""

# Rule: a label is made of what the application's code says (a rule, a URLconf, a name that it is mounted under), so
#       that no client can add to the labels there are.

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KEY: Final = "wsgi_prom.route"

# Where Werkzeug (for Flask) and Bottle leave theirs.
WERKZEUG: Final = "werkzeug.request"
BOTTLE: Final = "bottle.route"

# Where a request's measurement lies in its environ: an object whose `entered` is PATH_INFO as the middleware found it
# (what a dispatcher has taken off it since is a mount), and None when the request is over.
REQUEST: Final = "wsgi_prom.request"

_ABSENT: Final = object()

# A request that no route took, or whose framework does not say which one did.
UNMATCHED: Final = "unmatched"


def set_route(environ: WSGIEnvironment, template: str) -> None:
    """
    Say which route takes the request: *template* becomes its `route` label.

    Give a template of the application's (`/users/<id>`), not the path: each value is a series of its own. Call it
    before the response starts, in the thread of the request. It wins over what a framework says.
    """
    environ[KEY] = template


def publish(environ: WSGIEnvironment, template: str) -> None:
    """Say it for a framework: under the prefix that the application is mounted at, unless it was said before."""
    if KEY not in environ:
        try:
            mounted = environ[REQUEST].entered != environ["PATH_INFO"]
        except (KeyError, AttributeError):  # not measured, or all of the path was moved: `mount` tells
            mounted = True
        environ[KEY] = mount(environ) + template if mounted else template


def find_route(environ: WSGIEnvironment, entered: str) -> str:
    """
    Return the route of a request that has got as far as `start_response`, or has raised the current exception.

    *entered* was its PATH_INFO. Later is too late: Flask has cleared its request by the time that the application
    returns.
    """
    if KEY in environ:
        template: Any = environ[KEY]
        return template if isinstance(template, str) and template else UNMATCHED
    request = environ.get(WERKZEUG, _ABSENT)
    if request is not _ABSENT:
        if request is None:
            request = _raising_request()
        try:
            rule = request.url_rule  # Flask's; a plain Werkzeug application may set it too
        except AttributeError:
            rule = None
        if rule is not None:
            template = rule.rule
            return template if environ.get("PATH_INFO") == entered else f"{mount(environ)}{template}"
    if BOTTLE in environ and _is_its_own(environ["bottle.app"], route := environ[BOTTLE]):
        # Where Bottle mounts an application as WSGI, it has moved the path back before the response starts.
        own = _head(environ.get("PATH_INFO", ""), environ["bottle.raw_path"])
        return f"{mount(environ)}{own}{route.rule}"
    return UNMATCHED


def mount(environ: WSGIEnvironment) -> str:
    """
    Return the prefix that a dispatcher inside of the middleware has moved from PATH_INFO to SCRIPT_NAME.

    What was in SCRIPT_NAME before is not part of it: gunicorn takes that from a request's SCRIPT_NAME header, of any
    client on a unix socket or the same machine (gunicorn/http/wsgi.py, forwarder_headers), ProxyFix from
    X-Forwarded-Prefix. And a dashboard need not change where the deployment's prefix does.
    """
    path: str = environ.get("PATH_INFO", "")
    request: Any = environ.get(REQUEST)
    entered: str = path if request is None else request.entered
    if entered == path:
        return ""
    head = _head(entered, path)
    # Moved, and not just cut off.
    return head if environ.get("SCRIPT_NAME", "").endswith(head) else ""


def _raising_request() -> Any:
    # Flask clears its request before it lets an exception through (PROPAGATE_EXCEPTIONS, a debugger): there it is
    # still in Flask.wsgi_app's frame.
    trace = sys.exc_info()[2]
    while trace is not None:
        request = getattr(trace.tb_frame.f_locals.get("ctx"), "request", None)
        if request is not None:
            return request
        trace = trace.tb_next
    return None


def _head(whole: str, rest: str) -> str:
    """Return what *whole* has before *rest*, nothing where it does not end with it."""
    if whole == rest:
        return ""
    if rest == "/" and not whole.endswith("/"):
        return whole  # Django makes an empty path "/"
    # Django and Bottle put the path there as text, where PEP 3333 has its bytes in the guise of latin-1.
    for form in (rest, rest.encode(errors="surrogatepass").decode("latin-1")):
        if whole.endswith(form):
            return whole.removesuffix(form)
    return ""


def _is_its_own(app: object, route: object) -> bool:
    # An application that Bottle has mounted as WSGI leaves the mount's own route there when it finds none.
    return getattr(route, "app", None) is app or route in getattr(app, "routes", ())
