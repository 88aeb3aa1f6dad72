"""
Find the framework of an application, and whether the framework's adapter is installed.

1. Frameworks are known by the names of their classes; none is imported here.
2. The application is found behind wrappers by what objects refer to; none of the application's code is called.
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

# An application has a few wrappers. The search ends after this many objects.
_MOST_OBJECTS: Final = 2000


@dataclass(frozen=True)
class Framework:
    """
    A framework: the top-level *package* and the name of its *application* class.

    *adapted* tells whether such an application has the adapter installed; None if the framework needs none. *remedy* is the
    line that installs it.
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
    """Find the applications of frameworks that *app* is, wraps or dispatches to, each with its framework."""
    waiting, seen = deque([app]), {id(app)}
    while waiting and len(seen) < _MOST_OBJECTS:
        item = waiting.popleft()
        framework = _framework_of(item)
        if framework is not None:
            yield framework, item
            continue  # do not search inside it
        for part in _parts(item):
            # Not isinstance, which asks a proxy for its class (Werkzeug's LocalProxy): that runs the application's code.
            if id(part) not in seen and (callable(part) or issubclass(type(part), dict)):
                seen.add(id(part))
                waiting.append(part)


def unadapted() -> Iterator[Framework]:
    """Find the frameworks that are imported and need an adapter, unless it is known to be installed."""
    for framework in FRAMEWORKS:
        if framework.package in sys.modules and framework.adapted is not None:
            with suppress(Exception):
                if framework.adapted(None):  # only Django's answers without an application: from its settings
                    continue
            yield framework


def _framework_of(item: object) -> Framework | None:
    names = {(cls.__module__.partition(".")[0], cls.__name__) for cls in type(item).__mro__}
    return next((found for found in FRAMEWORKS if (found.package, found.application) in names), None)


def _parts(item: Any) -> Iterable[object]:
    """Return the objects in which a wrapper *item* may have the application: attributes, closure, values of a dict."""
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
    with suppress(Exception):  # an object with __slots__, or a proxy
        held += vars(item).values()
    for cell in (item.__closure__ or ()) if kind is FunctionType else ():
        with suppress(ValueError):  # an empty cell, whose name is not bound yet
            held.append(cell.cell_contents)
    return held
