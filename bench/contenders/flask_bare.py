"""The Flask application that all others of Flask's measure: one route with a parameter."""

from __future__ import annotations

from typing import Any

from flask import Flask


def application() -> Any:
    app = Flask("shop")

    @app.get("/users/<int:number>")
    def user(number: int) -> str:
        return f"user {number}"

    return app
