"""
What frameworks tell by their signals: exceptions that they answer themselves, and the route where environ does not tell it.
"""

# Rule 1: no framework is imported here. Its signals are connected once something has imported it: before the first
#         request, or up to a second later.
# Rule 2: a receiver never raises: the framework would answer 500.
# Rule 3: Flask's signal for each request takes 16,000 instructions, as much as all that is measured of it. It is connected
#         only where something may stand between the middleware and Flask.

from __future__ import annotations

import logging
import sys
import weakref
from collections import deque
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.routes import REQUEST, UNMATCHED, elsewhere, say_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("wsgi_prom")

_connected: Final[set[str]] = set()

# The Flask applications that are measured, each as the object itself.
_flasks: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
# The types of what else is measured, behind which there may be a Flask; of many, the last.
_others: Final[deque[type]] = deque(maxlen=1)


def watch(app: Any) -> None:
    """Take note of an application that is measured, and connect what is there. Runs none of its code. Thread safe."""
    flask = getattr(sys.modules.get("flask"), "Flask", None)
    if flask is not None and issubclass(type(app), flask):
        _flasks.add(app)
    elif flask is None or type(app) is not MethodType or app.__func__ is not flask.wsgi_app:
        _others.append(type(app))
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
    if not _others and all(_is_direct(app, flask.Flask) for app in list(_flasks)):
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


def _is_direct(app: Any, flask: Any) -> bool:
    """Tell whether nothing but a middleware of ours stands between *app*, a Flask, and its request."""
    kind = type(app)
    own = vars(app).get("wsgi_app")
    return (
        kind.__call__ is flask.__call__
        and kind.wsgi_app is flask.wsgi_app
        and (own is None or getattr(own, "__module__", "") == "wsgi_prom.middleware")
    )


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
