"""The route label of real frameworks: a table for each application says which route each of its requests has."""

from __future__ import annotations

import functools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers
from labels import Route, application, by_status, environ_of, label, labels

from wsgi_prom import PrometheusMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3
FRAMEWORKS = ["flask", "bottle", "django", "pyramid", "falcon"]
ADAPTED = ["django", "pyramid", "falcon"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_request_has_the_template_that_took_it(framework: str, in_child: Callable[..., Any]) -> None:
    """Each request of the application's table has the route label in the table."""

    def work() -> Any:
        module = application(f"routes_{framework}")
        return labels(module.app, module.REQUESTS), module.REQUESTS

    found, expected = in_child(work)
    assert expected == found


@pytest.mark.parametrize("framework", ADAPTED)
def test_without_the_adapter_all_else_is_the_same(framework: str, in_child: Callable[..., Any]) -> None:
    """Without the adapter all statuses are the same, and only routes that the application names itself are known."""

    def work() -> Any:
        module = application(f"routes_{framework}")
        return labels(module.make(adapter=False), module.REQUESTS), module.REQUESTS

    found, expected = in_child(work)
    said = {"/named/"}  # by set_route
    assert {
        request: (route if route in said else "unmatched", status)
        for request, (route, status) in expected.items()
    } == found


@pytest.mark.parametrize(
    ("framework", "server"),
    [
        ("flask", "gunicorn gthread"),
        ("bottle", "uwsgi prefork"),
        ("django", "gunicorn sync"),
        ("pyramid", "gunicorn sync"),
        ("falcon", "uwsgi threads"),
    ],
)
def test_a_real_server_counts_each_request_under_its_route(
    framework: str, server: str, in_child: Callable[..., Any]
) -> None:
    """One scrape of a real server with two workers has exact counts for each route and status."""
    name = f"routes_{framework}"
    expected = in_child(lambda: application(name).REQUESTS)
    with servers.start(server, app=f"{name}:app", workers=2) as running:
        answered = {
            request: running.get(request[1], method=request[0]).status
            for _ in range(ROUNDS)
            for request in expected
        }
        totals: Counter[Route] = Counter()
        for route in expected.values():
            totals[route] += ROUNDS
        found = live.eventually(lambda: by_status(running.samples()), totals.__eq__)
    assert {request: status for request, (_, status) in expected.items()} == answered
    assert totals == found


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_any_framework_can_be_mounted(framework: str, in_child: Callable[..., Any]) -> None:
    """Behind a dispatcher each route has the mount's prefix, and unmatched stays unmatched."""

    def work() -> Any:
        from werkzeug.exceptions import NotFound
        from werkzeug.middleware.dispatcher import DispatcherMiddleware

        module = application(f"routes_{framework}")
        app = DispatcherMiddleware(NotFound(), {"/at/the shop": module.app})
        return labels(app, [(method, f"/at/the%20shop{target}") for method, target in module.REQUESTS]), {
            (method, f"/at/the%20shop{target}"): prefixed(route)
            for (method, target), route in module.REQUESTS.items()
        }

    def prefixed(found: Route) -> Route:
        return found if found[0] in {"unmatched", "/named/"} else (f"/at/the shop{found[0]}", found[1])

    found, expected = in_child(work)
    assert expected == found


def copied(app: Any) -> Any:
    return lambda environ, start_response: app(dict(environ), start_response)


def by_webob(app: Any) -> Any:
    def between(environ: Any, start_response: Any) -> Any:
        from webob import Request

        return Request(environ).get_response(app)(environ, start_response)

    return between


def by_werkzeug(app: Any) -> Any:
    def between(environ: Any, start_response: Any) -> Any:
        from werkzeug.wrappers import Response

        return Response.from_app(app, environ)(environ, start_response)

    return between


def with_a_request(app: Any) -> Any:
    """A middleware that makes a Werkzeug request for itself, which stays in environ."""

    def between(environ: Any, start_response: Any) -> Any:
        from werkzeug.wrappers import Request

        Request(environ)
        return app(dict(environ), start_response)

    return between


@pytest.mark.parametrize("between", [copied, by_webob, by_werkzeug, with_a_request])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_route_is_seen_through_other_middleware(
    framework: str, between: Callable[[Any], Any], in_child: Callable[..., Any]
) -> None:
    """Middleware that hands on a copy of environ, or calls start_response late, does not change the route."""

    def work() -> Any:
        module = application(f"routes_{framework}")
        # In which the framework's first request is one of these.
        return labels(between(module.app), module.REQUESTS), module.REQUESTS

    found, expected = in_child(work)
    assert expected == found


def fixed(app: Any) -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    return ProxyFix(app)


def dispatched(app: Any) -> Any:
    from prometheus_client import make_wsgi_app
    from werkzeug.exceptions import NotFound
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    return DispatcherMiddleware(NotFound(), {"/app": app, "/metrics": make_wsgi_app()})


def with_shared_data(app: Any) -> Any:
    from werkzeug.middleware.shared_data import SharedDataMiddleware

    return SharedDataMiddleware(app, {})


def with_static_files(app: Any) -> Any:
    from whitenoise import WhiteNoise

    return WhiteNoise(app)


def of_a_subclass(app: Any) -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    class Copying(ProxyFix):
        def __call__(self, environ: Any, start_response: Any) -> Any:
            return super().__call__(dict(environ), start_response)

    return Copying(app)


def named_alike(app: Any) -> Any:
    """Return a function with the name and module of one that hands on its environ, as decorators do."""
    return functools.wraps(PrometheusMiddleware(app))(copied(app))


def flask_app() -> Any:
    from flask import Flask

    app: Any = Flask("shop")
    app.get("/users/<int:id>")(lambda id: "ok")  # noqa: A006 - Flask calls it by this name
    return app


def inside(between: Callable[[Any], Any]) -> Any:
    """Return a Flask application with a middleware inside of it, by Flask's idiom."""
    app = flask_app()
    app.wsgi_app = between(app.wsgi_app)
    return app


HANDING_ON = [fixed, dispatched, with_shared_data, with_static_files]


@pytest.mark.parametrize(
    ("between", "costs"),
    [(between, False) for between in HANDING_ON]
    + [(between, True) for between in (copied, by_webob, of_a_subclass, named_alike)],
)
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_flasks_signal_is_used_only_where_its_route_might_be_lost(
    between: Callable[[Any], Any], costs: bool, where: str, in_child: Callable[..., Any]
) -> None:
    """Flask's signal, which costs as much as the rest, is only connected if middleware may hide the route from us."""

    def work() -> Any:
        from flask import request_started

        app = between(flask_app()) if where == "outside" else inside(between)
        target = "/app/users/7" if between is dispatched else "/users/7"
        route, _ = label(app, environ_of("GET", target), validate=False)
        return route, bool(request_started.receivers)

    route, connected = in_child(work)
    assert route == ("/app/users/<int:id>" if between is dispatched else "/users/<int:id>")
    assert connected is costs


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_path_is_ever_a_label(framework: str, in_child: Callable[..., Any]) -> None:
    """No part of hundreds of random paths, half of them below real routes, gets into a label."""

    def work() -> Any:
        module = application(f"routes_{framework}")
        dice = random.Random(framework)
        known = [target.partition("?")[0].rstrip("/") for _, target in module.REQUESTS]
        noise = ["zz", "zz%C3%A9", "zz%FF", "zz%00", "..", "%2F", "zz<int:a>", "{zz}", ";zz=1", "%25zz"]
        found = Counter()
        for _ in range(400):
            tail = "/".join(
                f"{dice.choice(noise)}{dice.randrange(10**6)}" for _ in range(dice.randrange(1, 4))
            )
            target = f"{dice.choice(known) if dice.random() < 0.5 else ''}/{tail}{dice.choice(['', '/'])}"
            route, _ = label(module.app, environ_of("GET", target), validate=False)
            found[route] += 1
        return found

    found = in_child(work)
    assert set() == {
        route for route in found if "zz" in route or any(map(str.isdigit, route.replace("v1", "")))
    }
    assert found["unmatched"] > 100


def test_django_is_labelled_when_all_of_it_runs_differently(in_child: Callable[..., Any]) -> None:
    """Routes are the same if an async middleware makes the adapter async, and if exceptions are let through."""

    def work() -> Any:
        module = application("routes_django")
        below = module.make(more=("routes_django.async_only",))
        found = labels(below, module.REQUESTS)
        let_through = module.make(DEBUG_PROPAGATE_EXCEPTIONS=True)
        return found, module.REQUESTS, labels(let_through, [("GET", "/fail/"), ("GET", "/async/")])

    found, expected, let_through = in_child(work)
    assert expected == found
    assert {("GET", "/fail/"): ("/fail/", 500), ("GET", "/async/"): ("/async/", 200)} == let_through


def test_the_adapter_of_django_does_nothing_under_asgi(in_child: Callable[..., Any]) -> None:
    """The adapter does not change the answer to an ASGI request."""

    def work() -> Any:
        from asgiref.sync import async_to_sync

        application("routes_django")
        from django.core.handlers.asgi import ASGIHandler
        from django.test import AsyncRequestFactory

        handler = ASGIHandler()
        get = async_to_sync(handler.get_response_async)
        return [
            get(AsyncRequestFactory().get(path)).status_code for path in ("/users/1/", "/none/", "/async/")
        ]

    assert [200, 404, 200] == in_child(work)
