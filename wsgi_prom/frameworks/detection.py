"""
Which framework an application is made with, and whether its routes are seen.

By the names of classes and what objects refer to: this imports no framework, and calls nothing of the application's.
"""

from __future__ import annotations

import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.frameworks import falcon, pyramid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DJANGO_MIDDLEWARE: Final = "wsgi_prom.frameworks.django.RouteMiddleware"

# An application is wrapped by a few middlewares; this many objects are looked at before it is called unknown.
_MOST_OBJECTS: Final = 2000


@dataclass(frozen=True)
class Framework:
    """
    How to know an application of a framework: the *package* and name of its *application* class.

    *adapted* tells of such an object whether the adapter is installed; None where none is needed. *remedy* installs it.
    """

    name: str
    package: str
    application: str
    adapted: Callable[[Any], bool] | None = None
    remedy: str = ""


def _django_adapted(_handler: Any) -> bool:
    return DJANGO_MIDDLEWARE in sys.modules["django.conf"].settings.MIDDLEWARE


def _pyramid_adapted(router: Any) -> bool:
    derivers = router.registry.queryUtility(sys.modules["pyramid.interfaces"].IViewDerivers)
    return pyramid.DERIVER in derivers.names


def _falcon_adapted(app: Any) -> bool:
    _, process_resource, _ = app._middleware
    return any(
        isinstance(getattr(method, "__self__", None), falcon.RouteMiddleware) for method in process_resource
    )


FRAMEWORKS: Final = (
    Framework("Flask", "flask", "Flask"),
    Framework("Bottle", "bottle", "Bottle"),
    Framework(
        "Django",
        "django",
        "WSGIHandler",
        _django_adapted,
        f'in the settings, anywhere in the list: MIDDLEWARE += ["{DJANGO_MIDDLEWARE}"]',
    ),
    Framework(
        "Pyramid",
        "pyramid",
        "Router",
        _pyramid_adapted,
        'where the application is configured: config.include("wsgi_prom.frameworks.pyramid")',
    ),
    Framework(
        "Falcon",
        "falcon",
        "App",
        _falcon_adapted,
        "where the application is made: app.add_middleware(wsgi_prom.frameworks.falcon.RouteMiddleware())",
    ),
)


def applications(app: object) -> Iterator[tuple[Framework, Any]]:
    """Find the frameworks' applications that *app* is, wraps or dispatches to, each with its framework."""
    waiting, seen = deque([app]), {id(app)}
    while waiting and len(seen) < _MOST_OBJECTS:
        item = waiting.popleft()
        framework = _framework_of(item)
        if framework is not None:
            yield framework, item
            continue  # what it is made of is its own affair
        for part in _parts(item):
            # By type: asking a proxy for its class (Werkzeug's LocalProxy) runs the application's code.
            if id(part) not in seen and (callable(part) or issubclass(type(part), dict)):
                seen.add(id(part))
                waiting.append(part)


def unadapted() -> Iterator[Framework]:
    """Find the frameworks that something has imported, and whose adapter is not known to be installed."""
    for framework in FRAMEWORKS:
        if framework.package in sys.modules and framework.adapted is not None:
            with suppress(Exception):
                if framework.adapted(None):  # Django's, which is told by the settings alone
                    continue
            yield framework


def _framework_of(item: object) -> Framework | None:
    names = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(item).__mro__}
    return next((found for found in FRAMEWORKS if (found.package, found.application) in names), None)


def _parts(item: Any) -> Iterable[object]:
    """Return what *item* refers to as a wrapper does: attributes, closure, values of a dict."""
    kind: type = type(item)
    if issubclass(kind, type | ModuleType):
        return ()
    if issubclass(kind, dict):
        return list(item.values())
    if kind is MethodType:
        return (item.__self__, item.__func__)
    if kind is partial:
        return (item.func, *item.args, *item.keywords.values())
    held: list[object] = []
    with suppress(Exception):  # slots only, or a proxy
        held += vars(item).values()
    for cell in (item.__closure__ or ()) if kind is FunctionType else ():
        with suppress(ValueError):  # empty: of a name that is bound later
            held.append(cell.cell_contents)
    return held
