"""A Flask application wrapped in its own place; `flask --app debugged:flask_app run --debug`."""

from __future__ import annotations

from flask import Flask

from wsgi_prom import PrometheusMiddleware

flask_app = Flask(__name__)
flask_app.wsgi_app = PrometheusMiddleware(flask_app.wsgi_app, metrics_path="/metrics")  # type: ignore[method-assign]


@flask_app.get("/hello")
def hello() -> str:
    return "hello"
