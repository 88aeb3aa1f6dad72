"""
Which route took a request: the template that the framework matched, never the path that the client sent.
"""

# Rule: a label is made of what the application's code says (a rule, a URLconf, a name that it is mounted under), so
#       that no client can add to the labels there are.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KEY: Final = "wsgi_prom.route"

# PATH_INFO as the middleware found it, which sets this: what a dispatcher has taken off it since is a mount.
ENTERED: Final = "wsgi_prom.path_info"

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
        environ[KEY] = mount(environ, environ.get("PATH_INFO", "")) + template


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
        # Flask's; a plain Werkzeug application may set it too.
        rule = getattr(request, "url_rule", None)
        if rule is not None:
            return f"{mount(environ, environ.get('PATH_INFO', ''))}{rule.rule}"
    route = environ.get("bottle.route")
    if route is not None and _is_its_own(environ["bottle.app"], route):
        # Not PATH_INFO, which Bottle has decoded, and shifted back where it was mounted.
        return f"{mount(environ, environ['bottle.raw_path'])}{route.rule}"
    return UNMATCHED


def mount(environ: WSGIEnvironment, path: str) -> str:
    """
    Return the prefix that a dispatcher inside of the middleware has moved from the path to SCRIPT_NAME, leaving *path*.

    What was in SCRIPT_NAME before is not part of it: gunicorn takes that from a request's SCRIPT_NAME header, of any
    client on a unix socket or the same machine (gunicorn/http/wsgi.py, forwarder_headers), ProxyFix from
    X-Forwarded-Prefix. And a dashboard need not change where the deployment's prefix does.
    """
    entered: str = environ.get(ENTERED, path)
    if entered == path:
        return ""
    if path == "/" and not entered.endswith("/"):
        path = ""  # Django makes it "/"
    found = next((form for form in _forms(path) if entered.endswith(form)), None)
    if found is None:
        return ""
    prefix = entered.removesuffix(found)
    # Moved, and not cut off; or moved back meanwhile, as Bottle does before the response starts.
    if str(environ.get("SCRIPT_NAME")).endswith(prefix) or entered in _forms(environ.get("PATH_INFO", "")):
        return prefix
    return ""


def _forms(path: str) -> tuple[str, str]:
    # Django and Bottle put the path there as text, where PEP 3333 has its bytes in the guise of latin-1.
    return path, path.encode(errors="surrogateescape").decode("latin-1")


def _is_its_own(app: object, route: object) -> bool:
    # An application that Bottle has mounted as WSGI leaves the mount's own route there when it finds none.
    return getattr(route, "app", None) is app or route in getattr(app, "routes", ())
