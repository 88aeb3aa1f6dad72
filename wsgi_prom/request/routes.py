"""
The route of a request: the template that its framework matched, never the path that the client sent.

1. A label is made only of what the application's code says: a rule, a URLconf, the name of a mount. A client cannot add one.
2. The first of these that tells a route wins: `set_route` or an adapter (ROUTE), Werkzeug's request, Flask's signal (RULE),
   Bottle's route.
3. An application may work on a copy of the environ that is measured. REQUEST leads from the copy to the measured one.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.metrics import LONGEST_LABEL, UNMATCHED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import WSGIEnvironment

# The key of the request's state: an object whose `environ` is the environ that is measured, and whose `original_path` is its
# PATH_INFO as the middleware found it (a dispatcher moves the mount from there to SCRIPT_NAME). None after the request.
REQUEST: Final = "wsgi_prom.request"

# The key of the route that `set_route` or an adapter has set.
ROUTE: Final = "wsgi_prom.route"

# The keys that Werkzeug (for Flask) and Bottle set.
WERKZEUG: Final = "werkzeug.request"
BOTTLE: Final = "bottle.route"

# The key of the route that Flask's signal tells, for an application in which WERKZEUG is only in a copy of the environ
# (Flask-SocketIO), or cleared since the response starts after Flask has returned (WebOb's get_response, Werkzeug's
# Response.from_app).
RULE: Final = "wsgi_prom.rule"

# Functions that return the environ that a framework keeps for this thread. It may be a copy of the measured one.
environ_getters: Final[list[Callable[[], WSGIEnvironment]]] = []

# Called with each request, while the application serves it, whose framework's adapter reports a route.
publish_listeners: Final[list[Callable[[Any], None]]] = []


def set_route(environ: WSGIEnvironment, template: str) -> None:
    """
    Set the `route` label of a request to *template*, whatever the framework says.

    Give a template of the application's (`/users/<id>`), not the path: each value is a series of its own. It is cut to 128
    characters. Call it before the response starts, with the request's environ or a copy of it.
    """
    if type(template) is str and len(template) > LONGEST_LABEL:
        template = template[:LONGEST_LABEL]
    _measured(environ)[ROUTE] = environ[ROUTE] = template


def publish(environ: WSGIEnvironment, template: str) -> None:
    """Set the route that a framework's adapter reports, below the application's mount, unless a route is set."""
    if ROUTE not in environ:
        request: Any = environ.get(REQUEST)
        if request is None:  # not measured, or counted already
            environ[ROUTE] = template
        else:
            # Django and Pyramid call this in each request, and few applications are mounted.
            mounted = environ.get("PATH_INFO") != request.original_path
            measured: WSGIEnvironment = getattr(request, "environ", environ)
            measured[ROUTE] = environ[ROUTE] = mount(environ) + template if mounted else template
            for listener in publish_listeners:
                listener(request)


def set_rule(environ: WSGIEnvironment, template: str) -> None:
    """Set the route that Flask's signal tells. The last call of Flask in a request wins. See RULE."""
    request = environ.get(REQUEST)
    if request is not None:
        request.environ[RULE] = template if template == UNMATCHED else mount(environ) + template


def find_route(environ: WSGIEnvironment, original_path: str) -> str:
    """
    Return the route of a request. *original_path* is its PATH_INFO as the middleware found it.

    Call it in `start_response`, or while the application's exception is handled: Flask clears its request when it returns.
    """
    if ROUTE in environ:
        template: Any = environ[ROUTE]
        return template if isinstance(template, str) and template else UNMATCHED
    return _werkzeug_rule(environ, original_path) or environ.get(RULE) or _bottle_rule(environ) or UNMATCHED


def mount(environ: WSGIEnvironment) -> str:
    """
    Return the prefix that a dispatcher inside the middleware has moved from PATH_INFO to SCRIPT_NAME.

    A prefix that was in SCRIPT_NAME before is left out. gunicorn takes it from a header of any client on a unix socket or
    the same machine (gunicorn/http/wsgi.py, forwarder_headers), ProxyFix from X-Forwarded-Prefix. And a dashboard need not
    change when the deployment's prefix does.
    """
    path: str = environ.get("PATH_INFO", "")
    request: Any = environ.get(REQUEST)
    original_path: str = path if request is None else request.original_path
    if original_path == path:
        return ""
    try:
        head = _head(original_path, path)
        # Middleware may also have cut it off the path, without a mount.
        return head if environ.get("SCRIPT_NAME", "").endswith(head) else ""
    except (AttributeError, TypeError):  # a path that is no text
        return ""


def _measured(environ: WSGIEnvironment) -> WSGIEnvironment:
    """Return the environ that is measured, of which *environ* may be a copy; *environ* itself if none is measured."""
    measured: WSGIEnvironment = getattr(environ.get(REQUEST), "environ", environ)
    return measured


def _werkzeug_rule(environ: WSGIEnvironment, original_path: str) -> str | None:
    if WERKZEUG not in environ:
        return None
    request: Any = environ[WERKZEUG]
    if request is None and RULE not in environ:
        request = _raising_request()
    rule = getattr(request, "url_rule", None)  # Flask's; a plain Werkzeug application may set it too
    if rule is None:
        return None
    template: str = rule.rule
    return template if environ.get("PATH_INFO") == original_path else f"{mount(environ)}{template}"


def _raising_request() -> Any:
    """
    Return Flask's request from the frames of the current exception, None if there is none.

    Flask clears environ before it lets an exception through (PROPAGATE_EXCEPTIONS, a debugger); the frame of Flask.wsgi_app
    still has the request.
    """
    trace = sys.exc_info()[2]
    while trace is not None:
        request = getattr(trace.tb_frame.f_locals.get("ctx"), "request", None)
        if request is not None:
            return request
        trace = trace.tb_next
    return None


def _bottle_rule(environ: WSGIEnvironment) -> str | None:
    for candidate in (environ, *_copies(environ)):
        if BOTTLE in candidate and _is_its_own(candidate["bottle.app"], route := candidate[BOTTLE]):
            # Bottle moves the mount of a WSGI application back to PATH_INFO before the response starts.
            own = _head(candidate.get("PATH_INFO", ""), candidate["bottle.raw_path"])
            return f"{mount(candidate)}{own}{route.rule}"
    return None


def _copies(environ: WSGIEnvironment) -> Iterator[WSGIEnvironment]:
    """Find the copies of *environ* that frameworks keep: those with the same request."""
    for kept in environ_getters:
        with suppress(Exception):  # the framework has served no request in this thread
            copy = kept()
            if copy is not environ and REQUEST in environ and copy.get(REQUEST) is environ[REQUEST]:
                yield copy


def _is_its_own(app: object, route: object) -> bool:
    # A WSGI application that Bottle has mounted leaves the mount's route in environ when none of its own matches.
    return getattr(route, "app", None) is app or route in getattr(app, "routes", ())


def _head(whole: str, rest: str) -> str:
    """Return the part of *whole* before *rest*; empty if *whole* does not end with it."""
    if whole == rest:
        return ""
    if rest == "/" and not whole.endswith("/"):
        return whole  # Django makes an empty path "/"
    # Django and Bottle decode the path, which PEP 3333 has as bytes decoded by latin-1.
    for form in (rest, rest.encode(errors="surrogatepass").decode("latin-1")):
        if whole.endswith(form):
            return whole.removesuffix(form)
    return ""
