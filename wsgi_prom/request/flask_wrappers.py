"""
Tell whether the middleware around a Flask application hands on its environ and start_response.

Where it does, Flask leaves the route in the environ that is measured, and signals.py need not connect a signal for it.
By types and attributes alone: none of the application's code runs.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any, Final

# Middleware that hands on environ and start_response unchanged, by the module and name of its class, and the attributes
# in which it has the applications that it calls.
_HANDING_ON: Final = {
    ("werkzeug.middleware.dispatcher", "DispatcherMiddleware"): ("app", "mounts"),
    ("werkzeug.middleware.proxy_fix", "ProxyFix"): ("app",),
    ("werkzeug.middleware.shared_data", "SharedDataMiddleware"): ("app",),
    ("whitenoise.base", "WhiteNoise"): ("application",),
}
# Modules whose applications call no Flask, or are middleware of ours.
_WITHOUT_FLASK: Final = frozenset(
    {
        "django.core.handlers.wsgi",
        "prometheus_client.exposition",
        "werkzeug.exceptions",
        "werkzeug.wrappers.response",
        "wsgi_prom.exporter.app",
        "wsgi_prom.request.measurement",
        "wsgi_prom.request.nesting",
    }
)


def reaches_flask_unchanged(app: Any, flask: Any) -> bool:
    """
    Tell whether each application of the class *flask* behind *app* is called with the environ and start_response of *app*.

    False if that is not known.
    """
    waiting, seen = [app], {id(app)}
    while waiting:
        called = _called_unchanged(waiting.pop(), flask)
        if called is None:
            return False
        waiting += [part for part in called if id(part) not in seen]
        seen.update(map(id, called))
    return True


def _called_unchanged(app: Any, flask: Any) -> list[Any] | None:
    """Return the applications that *app* calls with its own environ and start_response; None if that is not known."""
    kind = type(app)
    if kind is MethodType:
        return [] if app.__func__ is flask.wsgi_app else None
    if issubclass(kind, flask):
        if kind.__call__ is not flask.__call__ or kind.wsgi_app is not flask.wsgi_app:
            return None
        wrapped = vars(app).get("wsgi_app")
        return [] if wrapped is None else [wrapped]
    # Not a function's `__module__`, which functools.wraps copies from another function.
    module = app.__globals__.get("__name__") if kind is FunctionType else kind.__module__
    if module in _WITHOUT_FLASK:
        return []
    names = _HANDING_ON.get((kind.__module__, kind.__qualname__))
    if names is None:
        return None
    parts: list[Any] = []
    for name in names:
        part = vars(app).get(name)
        parts += part.values() if type(part) is dict else [part]
    return parts
