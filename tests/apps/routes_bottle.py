"""Bottle: an application merged into another, and two that are mounted as WSGI; run as `routes_bottle:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import routes_flask
from bottle import Bottle, abort, redirect

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUESTS = {
    ("GET", "/"): ("/", 200),
    ("HEAD", "/"): ("/", 200),
    ("GET", "/users/1"): ("/users/<user_id:int>", 200),
    ("GET", "/users/0"): ("/users/<user_id:int>", 404),
    ("GET", "/stream"): ("/stream", 200),
    ("GET", "/fail"): ("/fail", 500),
    ("GET", "/moved"): ("/moved", 303),
    ("GET", "/caf%C3%A9"): ("/<name>", 200),
    ("POST", "/users/1"): ("unmatched", 405),
    ("GET", "/users/ann"): ("unmatched", 404),
    # mount() of a Bottle at a prefix that ends with a slash makes its routes the parent's.
    ("GET", "/merged/users/1"): ("/merged/users/<user_id:int>", 200),
    ("GET", "/merged/users/ann"): ("unmatched", 404),
    # Any other is called as WSGI.
    ("GET", "/mounted/users/1"): ("/mounted/users/<user_id:int>", 200),
    ("GET", "/mounted/fail"): ("/mounted/fail", 500),
    ("GET", "/mounted/users/ann"): ("unmatched", 404),
    ("GET", "/flask/users/1"): ("/flask/users/<int:user_id>", 200),
}


def make(*, top: bool = False) -> Bottle:
    app = Bottle()
    app.route("/", callback=lambda: "ok")
    app.route("/users/<user_id:int>", callback=user)
    app.route("/stream", callback=stream)
    app.route("/fail", callback=fail)
    app.route("/moved", callback=lambda: redirect("/"))
    if top:
        app.route("/<name>", callback=lambda name: name)
        app.mount("/merged/", make())
        app.mount("/mounted", make().wsgi)
        app.mount("/flask", routes_flask.inner)
    return app


def user(user_id: int) -> str:
    if not user_id:
        abort(404)
    return str(user_id)


def stream() -> Iterator[str]:
    yield "a"
    yield "b"


def fail() -> str:
    raise ValueError("asked to fail")


app = make(top=True)
