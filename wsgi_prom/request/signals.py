"""
Listen to frameworks' signals: exceptions that they answer themselves, and routes that they do not leave in the environ.

1. No framework is imported here. Its signals are connected once something has imported it: before the first request, or up
   to a second later.
2. A receiver never raises: the framework would answer 500.
3. Flask's request_started takes 16,000 instructions a request, as much as all that is measured of it. It is connected only
   if unknown middleware wraps Flask (flask_wrappers.py): that may copy environ, or call start_response after Flask has
   returned.
"""

from __future__ import annotations

import logging
import sys
import weakref
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.metrics import UNMATCHED
from wsgi_prom.request.flask_wrappers import reaches_flask_unchanged
from wsgi_prom.request.routes import REQUEST, environ_getters, set_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("wsgi_prom")

# Names of the entries of _SIGNALS that are connected.
_connected: Final[set[str]] = set()

# Weak references to the applications that are measured.
_measured: Final[list[Callable[[], Any]]] = []


def watch(app: Any) -> None:
    """Register *app*, which is measured, and connect the signals of imported frameworks. Runs no code of *app*. Thread safe."""
    try:
        _measured.append(weakref.ref(app, _measured.remove))
    except TypeError:  # an object that takes no weak references
        _measured.append(lambda: app)
    connect()


def connect() -> None:
    """Connect the signals of frameworks that were imported since the last call. Never raises. Thread safe."""
    for name, (module, connect_one) in _SIGNALS.items():
        if name not in _connected and module in sys.modules:
            try:
                if connect_one(sys.modules[module]):
                    _connected.add(name)
            except Exception:  # half imported by another thread: the next call tries again
                log.debug("%s is not connected yet", name, exc_info=True)


def note_exception(environ: WSGIEnvironment, exception: BaseException | None) -> None:
    """Count *exception*, which a framework answers itself, with the request of *environ*. A request counts its first one."""
    request = environ.get(REQUEST)
    if request is not None and exception is not None:
        request.note_exception(type(exception))


def _never_raising(receiver: Callable[..., None]) -> Callable[..., None]:
    @wraps(receiver)
    def receive(*arguments: Any, **keywords: Any) -> None:
        try:
            receiver(*arguments, **keywords)
        except Exception:
            log.debug("a framework's signal has no effect", exc_info=True)

    return receive


@_never_raising
def _flask_started(_sender: Any, **_: Any) -> None:
    request = sys.modules["flask"].request._get_current_object()
    rule = request.url_rule
    set_rule(request.environ, UNMATCHED if rule is None else rule.rule)


@_never_raising
def _flask_exception(_sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    note_exception(sys.modules["flask"].request.environ, exception)


@_never_raising
def _django_exception(request: Any = None, **_: Any) -> None:
    environ = getattr(request, "environ", None)
    if environ is not None:  # else the request did not come by WSGI
        note_exception(environ, sys.exc_info()[1])


def _bottle_environ() -> Any:
    """Return the environ that Bottle was called with last in this thread."""
    return sys.modules["bottle"].request.environ


def _flask_environ() -> Any:
    """Return the environ of the request that Flask serves in this thread."""
    return sys.modules["flask"].request.environ


# Each of these returns whether it has connected, given the framework's module.


def _connect_flask_exceptions(flask: Any) -> bool:
    flask.got_request_exception.connect(_flask_exception, weak=False)
    return True


def _connect_flask_routes(flask: Any) -> bool:
    apps = [app() for app in list(_measured)]
    if all(app is None or reaches_flask_unchanged(app, flask.Flask) for app in apps):
        return False
    flask.request_started.connect(_flask_started, weak=False)
    environ_getters.append(_flask_environ)
    return True


def _connect_django_exceptions(signals: Any) -> bool:
    signals.got_request_exception.connect(_django_exception, weak=False)
    return True


def _connect_bottle_routes(_bottle: Any) -> bool:
    environ_getters.append(_bottle_environ)  # Bottle has no signals
    return True


_SIGNALS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "Flask's got_request_exception": ("flask", _connect_flask_exceptions),
    "Flask's request_started": ("flask", _connect_flask_routes),
    "Django's got_request_exception": ("django.core.signals", _connect_django_exceptions),
    "Bottle's request": ("bottle", _connect_bottle_routes),
}
