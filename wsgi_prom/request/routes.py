"""
Which route took a request: the template that the framework matched, never the path that the client sent.
"""

# Rule: a label is made of what the application's code says (a rule, a URLconf, a name that it is mounted under), so
#       that no client can add to the labels there are.

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.metrics import LONGEST_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed.wsgi import WSGIEnvironment

KEY: Final = "wsgi_prom.route"

# Where Werkzeug (for Flask) and Bottle leave theirs.
WERKZEUG: Final = "werkzeug.request"
BOTTLE: Final = "bottle.route"

# Where a request's measurement lies in its environ, and in any copy that is made of that: an object whose `entered` is
# PATH_INFO as the middleware found it (what a dispatcher has taken off it since is a mount), and whose `_environ` is the
# environ that is measured. None when the request is over.
REQUEST: Final = "wsgi_prom.request"

# Where Flask's signal leaves the route: it is found there when WERKZEUG is only in a copy of the environ (Flask-SocketIO),
# or cleared since the response starts after Flask has returned (WebOb's get_response, Werkzeug's Response.from_app).
RULE: Final = "wsgi_prom.rule"

# Each returns an environ that a framework has kept for this thread, which may be a copy of the measured one.
elsewhere: Final[list[Callable[[], WSGIEnvironment]]] = []

_ABSENT: Final = object()

# A request that no route took, or whose framework does not say which one did.
UNMATCHED: Final = "unmatched"


def set_route(environ: WSGIEnvironment, template: str) -> None:
    """
    Say which route takes the request: *template* becomes its `route` label.

    Give a template of the application's (`/users/<id>`), not the path: each value is a series of its own, and what is
    longer than 128 characters is cut. Call it before the response starts, with the request's environ or a copy of it. It
    wins over what a framework says.
    """
    if type(template) is str and len(template) > LONGEST_LABEL:
        template = template[:LONGEST_LABEL]
    environ[KEY] = template
    try:
        measured = environ[REQUEST]._environ
    except (KeyError, AttributeError):  # not measured, or over
        return
    measured[KEY] = template


def publish(environ: WSGIEnvironment, template: str) -> None:
    """Set the route that a framework reports, below the application's mount. A route that was set before stays."""
    if KEY not in environ:
        try:
            request = environ[REQUEST]
            measured = request._environ
            mounted = request.entered != environ["PATH_INFO"]
        except (KeyError, AttributeError):  # not measured, or all of the path was moved: `mount` tells
            measured, mounted = getattr(environ.get(REQUEST), "_environ", environ), True
        measured[KEY] = environ[KEY] = mount(environ) + template if mounted else template


def say_rule(environ: WSGIEnvironment, template: str) -> None:
    """Set the route that Flask's signal reports. If Flask is called again for the request, that call wins. See RULE."""
    request = environ.get(REQUEST)
    if request is not None:
        request._environ[RULE] = template if template == UNMATCHED else mount(environ) + template


def find_route(environ: WSGIEnvironment, entered: str) -> str:
    """
    Return the route of a request that has got as far as `start_response`, or has raised the current exception.

    *entered* was its PATH_INFO. Later is too late, but for RULE: Flask has cleared its request by the time that the
    application returns.
    """
    if KEY in environ:
        template: Any = environ[KEY]
        return template if isinstance(template, str) and template else UNMATCHED
    request = environ.get(WERKZEUG, _ABSENT)
    if request is not _ABSENT:
        if request is None and RULE not in environ:
            request = _raising_request()
        try:
            rule = request.url_rule  # Flask's; a plain Werkzeug application may set it too
        except AttributeError:
            rule = None
        if rule is not None:
            template = rule.rule
            return template if environ.get("PATH_INFO") == entered else f"{mount(environ)}{template}"
    if RULE in environ:
        template = environ[RULE]
        return str(template)
    for candidate in (environ, *_kept(environ)):
        if BOTTLE in candidate and _is_its_own(candidate["bottle.app"], route := candidate[BOTTLE]):
            # Where Bottle mounts an application as WSGI, it has moved the path back before the response starts.
            own = _head(candidate.get("PATH_INFO", ""), candidate["bottle.raw_path"])
            return f"{mount(candidate)}{own}{route.rule}"
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
    try:
        head = _head(entered, path)
        # Moved, and not just cut off.
        return head if environ.get("SCRIPT_NAME", "").endswith(head) else ""
    except (AttributeError, TypeError):  # a path that is no text
        return ""


def _kept(environ: WSGIEnvironment) -> Iterator[WSGIEnvironment]:
    """Find the copies of *environ* that frameworks have kept. Each has the same measurement."""
    for kept in elsewhere:
        try:
            copy = kept()
        except Exception:  # noqa: S112 - it has served nothing in this thread
            continue
        if copy is not environ and copy.get(REQUEST) is environ.get(REQUEST, _ABSENT):
            yield copy


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
