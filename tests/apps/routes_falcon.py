"""Falcon, with the adapter: templates, a suffix, sinks, a static route, refusals; run as `routes_falcon:app`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon

from wsgi_prom import set_route
from wsgi_prom.frameworks.falcon import RouteMiddleware, count_exception

REQUESTS = {
    ("GET", "/"): ("/", 200),
    ("HEAD", "/users/1"): ("/users/{user_id:int}", 405),
    ("GET", "/users/1"): ("/users/{user_id:int}", 200),
    ("GET", "/users/2"): ("/users/{user_id:int}", 200),
    ("GET", "/users/0"): ("/users/{user_id:int}", 404),
    ("GET", "/users/1/orders"): ("/users/{user_id:int}/orders", 200),
    # Falcon has a responder for each method of a resource that it found.
    ("POST", "/users/1"): ("/users/{user_id:int}", 405),
    ("OPTIONS", "/users/1"): ("/users/{user_id:int}", 200),
    ("GET", "/stream"): ("/stream", 200),
    ("GET", "/fail"): ("/fail", 500),
    # Refused by a middleware: after the router, and before it.
    ("GET", "/users/1?refuse=late"): ("/users/{user_id:int}", 403),
    ("GET", "/users/1?refuse=early"): ("unmatched", 403),
    ("GET", "/users/ann"): ("unmatched", 404),
    ("GET", "/none"): ("unmatched", 404),
    ("GET", "/proxy/1"): ("unmatched", 200),
    ("GET", "/named/1"): ("/named/", 200),
    ("GET", "/files/routes_falcon.py"): ("unmatched", 200),
}


class Text:
    def on_get(self, req: Any, resp: Any) -> None:
        resp.text = "ok"


class User:
    def on_get(self, req: Any, resp: Any, user_id: int) -> None:
        if not user_id:
            raise falcon.HTTPNotFound
        resp.text = str(user_id)

    on_get_orders = on_get


class Stream:
    def on_get(self, req: Any, resp: Any) -> None:
        resp.stream = iter([b"a", b"b"])


class Fail:
    def on_get(self, req: Any, resp: Any) -> None:
        raise ValueError("asked to fail")


class Refuse:
    def process_request(self, req: Any, resp: Any) -> None:
        if req.get_param("refuse") == "early":
            raise falcon.HTTPForbidden

    def process_resource(self, req: Any, resp: Any, resource: object, params: object) -> None:
        if req.get_param("refuse") == "late":
            raise falcon.HTTPForbidden


def sink(req: Any, resp: Any) -> None:
    resp.text = "sink"


def named_sink(req: Any, resp: Any) -> None:
    set_route(req.env, "/named/")
    resp.text = "sink"


def make(*, adapter: bool = True) -> Any:
    # Last, where it has the least to see.
    middleware = [Refuse(), RouteMiddleware()] if adapter else [Refuse()]
    app = falcon.App(middleware=middleware)
    app.add_route("/", Text())
    app.add_route("/users/{user_id:int}", User())
    app.add_route("/users/{user_id:int}/orders", User(), suffix="orders")
    app.add_route("/stream", Stream())
    app.add_route("/fail", Fail())
    app.add_sink(sink, "/proxy/")
    app.add_sink(named_sink, "/named/")
    app.add_static_route("/files", str(Path(__file__).parent))
    if adapter:
        app.add_error_handler(Exception, count_exception)
    return app


app = make()
