"""The route label: what the application names, and where it is mounted, but nothing that a client chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import live
import pytest
from labels import application, by_status, environ_of, label

from wsgi_prom import set_route
from wsgi_prom.frameworks import django as django_adapter
from wsgi_prom.request.routes import REQUEST, ROUTE, publish

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_client_cannot_add_to_the_routes_by_a_prefix() -> None:
    """A SCRIPT_NAME header, which gunicorn takes from local clients, does not get into the label."""
    with live.gunicorn("routes_flask:app", workers=2) as server:
        for number in range(30):
            prefix = f"/prefix{number}"
            answer = server.get(f"{prefix}/users/1", headers={"SCRIPT_NAME": prefix})
            assert answer.status == 200
        found = live.eventually(lambda: by_status(server.samples()), lambda found: found.total() == 30)
    assert {("/users/<int:user_id>", 200): 30} == found


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        # A prefix of the server's, of a proxy's header, and one that is in the path too.
        ({"SCRIPT_NAME": "/deployed"}, "/users/<int:user_id>"),
        ({"HTTP_X_FORWARDED_PREFIX": "/hostile"}, "/users/<int:user_id>"),
        ({"HTTP_X_FORWARDED_PREFIX": "/api/v1"}, "/users/<int:user_id>"),
        ({"HTTP_X_FORWARDED_PREFIX": "/users"}, "/users/<int:user_id>"),
        # Mounts inside of those.
        ({"SCRIPT_NAME": "/deployed", "PATH_INFO": "/api/v1/users/1"}, "/api/v1/users/<int:user_id>"),
        (
            {"HTTP_X_FORWARDED_PREFIX": "/hostile", "PATH_INFO": "/api/v1/users/1"},
            "/api/v1/users/<int:user_id>",
        ),
        # Cut off the path by a middleware, and not made a mount.
        ({"PATH_INFO": "/tenant/7/users/1", "test.cut": "/tenant/7"}, "/users/<int:user_id>"),
    ],
)
def test_only_what_was_moved_from_the_path_is_a_mount(
    environ: dict[str, Any], expected: str, in_child: Callable[..., Any]
) -> None:
    """The prefix of a label is what a dispatcher inside the middleware moved from the path to SCRIPT_NAME."""

    def work() -> Any:
        from werkzeug.middleware.proxy_fix import ProxyFix

        proxied = ProxyFix(application("routes_flask").app, x_prefix=1)

        def app(environ: Any, start_response: Any) -> Any:
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(environ.get("test.cut", ""))
            return proxied(environ, start_response)

        # Werkzeug's lint and the validator do not know what a proxy's header does; that is not what is shown here.
        return label(app, environ_of("GET", "/users/1", **environ), validate=False)

    assert (expected, 200) == in_child(work)


def test_an_exception_that_is_let_through_has_its_route(in_child: Callable[..., Any]) -> None:
    """Flask, Bottle and Falcon: an exception that they do not handle is counted under the route of its request."""

    def work() -> Any:
        flask, bottle, falcon = (application(f"routes_{name}") for name in ("flask", "bottle", "falcon"))
        flask.inner.config["PROPAGATE_EXCEPTIONS"] = True
        bottle.app.catchall = False

        def let_through(_req: Any, _resp: Any, error: Exception, _params: Any) -> None:
            raise error

        falcon.app.add_error_handler(Exception, let_through)
        return [
            label(app, environ_of("GET", target))
            for app, target in (
                (flask.app, "/fail"),
                (flask.app, "/api/v1/fail"),
                (bottle.app, "/merged/fail"),
                (falcon.app, "/fail"),
            )
        ]

    assert [("/fail", 500), ("/api/v1/fail", 500), ("/merged/fail", 500), ("/fail", 500)] == in_child(work)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("", "/"),
        ("users/<int:pk>/", "/users/<int:pk>/"),
        (r"^users/(?P<pk>\d+)/$", r"/users/(?P<pk>\d+)/"),
        (r"users/\Z", "/users/"),
        (r"users/\z", "/users/"),
        (r"price\$", r"/price\$"),
        (r"price\\$", r"/price\\"),
        (r"price\\\$", r"/price\\\$"),
        (r"back\\Z", r"/back\\Z"),
        ("AtoZ", "/AtoZ"),
        ("^$", "/"),
    ],
)
def test_the_anchors_of_a_pattern_are_no_part_of_its_label(route: str, expected: str) -> None:
    """A leading ^ and a trailing $ or \\Z are removed from a pattern, unless they are literal."""
    assert expected == django_adapter.template(route)


def test_the_root_of_a_mount_has_its_slash(in_child: Callable[..., Any]) -> None:
    """The root of a Django mount has a slash, as in Django's own path."""

    def work() -> Any:
        from werkzeug.exceptions import NotFound
        from werkzeug.middleware.dispatcher import DispatcherMiddleware

        app = DispatcherMiddleware(NotFound(), {"/shop": application("routes_django").app})
        return [label(app, environ_of("GET", target)) for target in ("/shop", "/shop/")]

    assert [("/shop/", 200)] * 2 == in_child(work)


@pytest.mark.parametrize("value", [7, b"/users", ["/users"], ""])
def test_what_is_no_text_is_no_route(value: object, in_child: Callable[..., Any]) -> None:
    """A request is counted even if environ holds a route that is no string."""

    def work() -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            environ["wsgi_prom.route"] = value
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"ok"]

        return label(app, environ_of("GET", "/users"))

    assert ("unmatched", 200) == in_child(work)


def test_what_the_application_says_itself_wins(in_child: Callable[..., Any]) -> None:
    """A route that a view names by set_route replaces the framework's own."""

    def work() -> Any:
        from flask import Flask, request

        app = Flask("shop")

        @app.get("/<path:anything>")
        def view(anything: str) -> str:
            set_route(request.environ, "/of-the-cms/<page>")
            return anything

        module = application("routes_django")
        return label(app, environ_of("GET", "/a/b")), label(module.app, environ_of("GET", "/named/1/"))

    assert (("/of-the-cms/<page>", 200), ("/named/<name>", 200)) == in_child(work)


def test_a_plain_werkzeug_application_has_to_say_its_rule(in_child: Callable[..., Any]) -> None:
    """A plain Werkzeug application is unmatched until it sets url_rule or calls set_route."""

    def work() -> Any:
        from werkzeug.exceptions import HTTPException
        from werkzeug.routing import Map, Rule
        from werkzeug.wrappers import Request, Response

        rules = Map([Rule("/users/<int:number>", endpoint="user")])

        def app(environ: Any, start_response: Any) -> Any:
            request = Request(environ)
            try:
                rule, _ = rules.bind_to_environ(environ).match(return_rule=True)
            except HTTPException as error:
                return error(environ, start_response)
            if request.args.get("say") == "rule":
                request.url_rule = rule  # type: ignore[attr-defined]
            elif request.args.get("say") == "route":
                set_route(environ, rule.rule)
            return Response("ok")(environ, start_response)

        targets = ["/users/1", "/users/1?say=rule", "/users/1?say=route", "/none"]
        return [label(app, environ_of("GET", target)) for target in targets]

    taken = ("/users/<int:number>", 200)
    assert [("unmatched", 200), taken, taken, ("unmatched", 404)] == in_child(work)


def test_a_webob_application_says_its_route(in_child: Callable[..., Any]) -> None:
    """A WebOb application names its route by set_route; the path segments that it pops are no mount."""

    def work() -> Any:
        from webob import Request, Response
        from webob.dec import wsgify
        from webob.exc import HTTPNotFound

        @wsgify
        def app(request: Request) -> Response:
            if request.path_info_pop() != "users":
                raise HTTPNotFound
            number = request.path_info_pop()
            set_route(request.environ, "/users/{number}")
            return Response(number)

        return [label(app, environ_of("GET", target)) for target in ("/users/1", "/users/2", "/none")]

    assert [("/users/{number}", 200)] * 2 + [("unmatched", 404)] == in_child(work)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({REQUEST: SimpleNamespace(original_path="/shop")}, "/shop/"),
        ({REQUEST: SimpleNamespace(original_path="/shop"), "PATH_INFO": ""}, "/shop/"),
        ({REQUEST: SimpleNamespace(original_path="/"), "PATH_INFO": "/"}, "/"),
        ({REQUEST: None}, "/"),
        ({}, "/"),
    ],
)
def test_a_path_that_was_moved_as_a_whole_may_be_missing(environ: dict[str, Any], expected: str) -> None:
    """PATH_INFO may be missing, as PEP 3333 allows for an empty path."""
    environ = {"SCRIPT_NAME": "/shop", **environ}
    publish(environ, "/")
    assert expected == environ[ROUTE]
