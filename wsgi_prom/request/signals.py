"""
What frameworks tell by their signals: exceptions that they answer themselves, and the route where environ does not tell it.
"""

# Rule 1: no framework is imported here. Its signals are connected once something has imported it: before the first
#         request, or up to a second later.
# Rule 2: a receiver never raises: the framework would answer 500.
# Rule 3: Flask's signal for each request takes 16,000 instructions, as much as all that is measured of it. It is connected
#         only where a middleware that is not known here stands around Flask: it may copy environ, or call start_response
#         after Flask has returned.

from __future__ import annotations

import logging
import sys
import weakref
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.routes import REQUEST, UNMATCHED, elsewhere, say_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("wsgi_prom")

_connected: Final[set[str]] = set()

# Weak references to the applications that are measured.
_measured: Final[list[Callable[[], Any]]] = []

# Middleware whose class hands on the environ and start_response that it is called with, by the module and name of the class:
# the attributes in which it has the applications that it calls.
_HANDING_ON: Final = {
    ("werkzeug.middleware.dispatcher", "DispatcherMiddleware"): ("app", "mounts"),
    ("werkzeug.middleware.proxy_fix", "ProxyFix"): ("app",),
    ("werkzeug.middleware.shared_data", "SharedDataMiddleware"): ("app",),
    ("whitenoise.base", "WhiteNoise"): ("application",),
}
# Modules whose applications call no Flask, or are middlewares of ours.
_WITHOUT_FLASK: Final = frozenset(
    {
        "django.core.handlers.wsgi",
        "prometheus_client.exposition",
        "werkzeug.exceptions",
        "werkzeug.wrappers.response",
        "wsgi_prom.exporter.app",
        "wsgi_prom.request.measurement",
    }
)


def watch(app: Any) -> None:
    """Take note of an application that is measured, and connect what is there. Runs none of its code. Thread safe."""
    try:
        _measured.append(weakref.ref(app, _measured.remove))
    except TypeError:  # an object that takes no weak references
        _measured.append(lambda: app)
    connect()


def connect() -> None:
    """Connect the signals of the frameworks that have been imported since the last call. Never raises. Thread safe."""
    for name, (module, connect_one) in _SIGNALS.items():
        if name not in _connected and module in sys.modules:
            try:
                if connect_one(sys.modules[module]):
                    _connected.add(name)
            except Exception:  # half imported, by another thread: again at the next call
                log.debug("%s is not connected", name, exc_info=True)


def note(environ: WSGIEnvironment, exception: BaseException | None) -> None:
    """Count *exception* with the request of *environ*, whose framework answers it itself. The first of a request counts."""
    request = environ.get(REQUEST)
    if request is not None and exception is not None:
        request.note(type(exception))


def _connect_flask_exceptions(flask: Any) -> bool:
    flask.got_request_exception.connect(_flask_exception, weak=False)
    return True


def _connect_flask_routes(flask: Any) -> bool:
    apps = [app() for app in list(_measured)]
    if all(app is None or reaches_flask_unchanged(app, flask.Flask) for app in apps):
        return False
    flask.request_started.connect(_flask_started, weak=False)
    return True


def _connect_django_exceptions(signals: Any) -> bool:
    signals.got_request_exception.connect(_django_exception, weak=False)
    return True


def _connect_bottle_routes(_bottle: Any) -> bool:
    elsewhere.append(_bottle_environ)
    return True


_SIGNALS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "Flask's got_request_exception": ("flask", _connect_flask_exceptions),
    "Flask's request_started": ("flask", _connect_flask_routes),
    "Django's got_request_exception": ("django.core.signals", _connect_django_exceptions),
    "Bottle's request": ("bottle", _connect_bottle_routes),
}


def reaches_flask_unchanged(app: Any, flask: Any) -> bool:
    """
    Tell whether each application of the class *flask* behind *app* is called with the environ and start_response of *app*.

    False where that is not known. By types and attributes alone: runs none of the application's code.
    """
    waiting, seen = [app], {id(app)}
    while waiting:
        parts = _handed_on_to(waiting.pop(), flask)
        if parts is None:
            return False
        waiting += [part for part in parts if id(part) not in seen]
        seen.update(map(id, parts))
    return True


def _handed_on_to(app: Any, flask: Any) -> list[Any] | None:
    """Return what *app* calls with its own environ and start_response, None if that is not known."""
    kind = type(app)
    if kind is MethodType:
        return [] if app.__func__ is flask.wsgi_app else None
    if issubclass(kind, flask):
        unchanged = kind.__call__ is flask.__call__ and kind.wsgi_app is flask.wsgi_app
        own = vars(app).get("wsgi_app")
        return None if not unchanged else [] if own is None else [own]
    # (Not a function's `__module__`, which functools.wraps copies from another.)
    if (app.__globals__.get("__name__") if kind is FunctionType else kind.__module__) in _WITHOUT_FLASK:
        return []
    names = _HANDING_ON.get((kind.__module__, kind.__qualname__))
    if names is None:
        return None
    found: list[Any] = []
    for name in names:
        part = vars(app).get(name)
        found += part.values() if type(part) is dict else [part]
    return found


def _flask_started(_sender: Any, **_: Any) -> None:
    try:
        request = sys.modules["flask"].request._get_current_object()
        rule = request.url_rule
        say_rule(request.environ, UNMATCHED if rule is None else rule.rule)
    except Exception:
        log.debug("Flask's route is not known", exc_info=True)


def _flask_exception(_sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    try:
        note(sys.modules["flask"].request.environ, exception)
    except Exception:
        log.debug("an exception that Flask answers is not counted", exc_info=True)


def _django_exception(request: Any = None, **_: Any) -> None:
    try:
        # None where the request did not come by WSGI.
        environ = getattr(request, "environ", None)
        if environ is not None:
            note(environ, sys.exc_info()[1])
    except Exception:
        log.debug("an exception that Django answers is not counted", exc_info=True)


def _bottle_environ() -> Any:
    # The one that Bottle was called with last in this thread.
    return sys.modules["bottle"].request.environ
