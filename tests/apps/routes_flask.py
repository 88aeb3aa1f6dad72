"""Flask: blueprints, one in another, a static folder, what it answers by itself; run as `routes_flask:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Flask, Response, abort
from werkzeug.exceptions import TooManyRequests
from werkzeug.middleware.dispatcher import DispatcherMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUESTS = {
    ("GET", "/"): ("/", 200),
    ("HEAD", "/"): ("/", 200),
    ("GET", "/users/1"): ("/users/<int:user_id>", 200),
    ("GET", "/users/2"): ("/users/<int:user_id>", 200),
    # Answered by Flask itself, for the rule that it found.
    ("OPTIONS", "/users/3"): ("/users/<int:user_id>", 200),
    ("GET", "/users/0"): ("/users/<int:user_id>", 404),
    ("GET", "/blog/posts/hello/"): ("/blog/posts/<slug>/", 200),
    ("GET", "/blog/admin/stats"): ("/blog/admin/stats", 200),
    ("GET", "/stream"): ("/stream", 200),
    ("GET", "/fail"): ("/fail", 500),
    ("GET", "/refused"): ("/refused", 429),
    ("GET", "/static/none.css"): ("/static/<path:filename>", 404),
    # A rule of the same path took none of these: wrong method, redirect to the slash, a converter that refused.
    ("POST", "/users/1"): ("unmatched", 405),
    ("GET", "/blog/posts/hello"): ("unmatched", 308),
    ("GET", "/users/ann"): ("unmatched", 404),
    ("GET", "/none"): ("unmatched", 404),
    # The same application behind a dispatcher.
    ("GET", "/api/v1/users/1"): ("/api/v1/users/<int:user_id>", 200),
    ("GET", "/api/v1/fail"): ("/api/v1/fail", 500),
    ("GET", "/api/v1/none"): ("unmatched", 404),
    ("GET", "/api/v1"): ("unmatched", 308),
}


def make() -> Flask:
    app = Flask("shop")
    app.add_url_rule("/", view_func=index)
    app.add_url_rule("/users/<int:user_id>", view_func=user)
    app.add_url_rule("/stream", view_func=stream)
    app.add_url_rule("/fail", view_func=fail)
    app.add_url_rule("/refused", view_func=refused)
    blog, admin = Blueprint("blog", __name__), Blueprint("admin", __name__)
    blog.add_url_rule("/posts/<slug>/", view_func=post)
    admin.add_url_rule("/stats", view_func=index)
    blog.register_blueprint(admin, url_prefix="/admin")
    app.register_blueprint(blog, url_prefix="/blog")
    return app


def index() -> str:
    return "ok"


def user(user_id: int) -> str:
    if not user_id:
        abort(404)
    return str(user_id)


def post(slug: str) -> str:
    return slug


def stream() -> Response:
    def chunks() -> Iterator[str]:
        yield "a"
        yield "b"

    return Response(chunks())


def fail() -> str:
    raise ValueError("asked to fail")


def refused() -> str:
    raise TooManyRequests


inner = make()
app = DispatcherMiddleware(inner, {"/api/v1": inner})
