"""Pyramid, with the adapter: URL dispatch, traversal, and both at once; run as `routes_pyramid:app`."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden, HTTPNotFound
from pyramid.response import Response
from pyramid.security import Denied

REQUESTS = {
    ("GET", "/users/1"): ("/users/{user_id}", 200),
    ("GET", "/users/2"): ("/users/{user_id}", 200),
    ("GET", "/users/0"): ("/users/{user_id}", 404),
    ("GET", "/api/v1/orders/7"): (r"/api/v1/orders/{number:\d+}", 200),
    ("GET", "/stream"): ("/stream", 200),
    ("GET", "/caught"): ("/caught", 500),
    # No view for it: raised to the server.
    ("GET", "/fail"): ("/fail", 500),
    ("GET", "/refused"): ("/refused", 403),
    ("GET", "/guarded"): ("/guarded", 403),
    ("GET", "/static/none.css/"): ("/static/*subpath", 404),
    ("GET", "/slash/"): ("/slash/", 200),
    # No view took these: wrong method, redirect to the slash, a pattern that did not match.
    ("POST", "/users/1"): ("unmatched", 404),
    ("GET", "/slash"): ("unmatched", 307),
    ("GET", "/api/v1/orders/x"): ("unmatched", 404),
    # By traversal the path is made of names of resources; what is bounded is their class and the view's name.
    ("GET", "/"): ("/{Root}", 200),
    ("GET", "/a"): ("/{Folder}", 200),
    ("GET", "/a/b/c"): ("/{Folder}", 200),
    ("GET", "/a/b/edit"): ("/{Folder}/edit", 200),
    ("GET", "/a/b/widgets"): ("/{Folder}/widgets", 200),
    ("GET", "/a/b/unknown-view"): ("unmatched", 404),
    # A route whose rest is traversed is one route.
    ("GET", "/hybrid/a/b/edit"): ("/hybrid/*traverse", 200),
}


class Root(dict[str, Any]):
    pass


class Folder(dict[str, Any]):
    pass


class ExpectedError(Exception):
    pass


class NobodyMay:
    """A security policy."""

    def identity(self, request: Any) -> None:
        return None

    authenticated_userid = identity

    def permits(self, request: Any, context: object, permission: str) -> Denied:
        return Denied(permission)


def root(_request: Any) -> Root:
    return Root(a=Folder(b=Folder(c=Folder())))


def text(_context: Any, _request: Any) -> Response:
    return Response("ok")


def user(request: Any) -> Response:
    if request.matchdict["user_id"] == "0":
        raise HTTPNotFound
    return Response(request.matchdict["user_id"])


def stream(_request: Any) -> Response:
    return Response(app_iter=iter([b"a", b"b"]))


def caught(_request: Any) -> Response:
    raise ExpectedError


def fail(_request: Any) -> Response:
    raise ValueError("asked to fail")


def widgets(_context: Any, request: Any) -> Response:
    from pyramid.view import render_view

    # A view of another context and name, rendered into this one's answer.
    return Response(render_view(request.root, request, name="part"))


def refused(_request: Any) -> Response:
    raise HTTPForbidden


def sorry(request: Any) -> Response:
    return Response("sorry", status=getattr(request.exception, "status", "500 Internal Server Error"))


def api(config: Configurator) -> None:
    config.add_route("order", r"orders/{number:\d+}")
    config.add_view(text, route_name="order")


def make(*, adapter: bool = True) -> Any:
    with Configurator(root_factory=root) as config:
        for name, pattern, view in (
            ("user", "users/{user_id}", user),
            ("stream", "/stream", stream),
            ("caught", "/caught", caught),
            ("fail", "/fail", fail),
            ("refused", "/refused", refused),
            ("slash", "/slash/", text),
        ):
            config.add_route(name, pattern)
            config.add_view(view, route_name=name, request_method="GET")
        config.set_security_policy(NobodyMay())
        config.add_route("guarded", "/guarded")
        config.add_view(text, route_name="guarded", permission="enter")
        if adapter:
            # Between the views, to show that the order does not matter.
            config.include("wsgi_prom.frameworks.pyramid")
        config.include(api, route_prefix="/api/v1")
        config.add_static_view("static", "pyramid:scaffolds")
        config.add_route("hybrid", "/hybrid/*traverse")
        for name in ("", "edit", "part"):
            config.add_view(text, name=name)
        config.add_view(text, name="edit", route_name="hybrid")
        config.add_view(widgets, name="widgets")
        config.add_exception_view(sorry, context=ExpectedError)
        # Of the older kind, which is a view of the exception as a context too.
        config.add_view(sorry, context=HTTPForbidden)
        config.add_notfound_view(sorry, append_slash=True)
        return config.make_wsgi_app()


app = make()
