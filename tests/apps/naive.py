"""
examples/flask with metrics as many applications have them at first: each worker counts in a registry of its own, and answers
/metrics with what it has counted itself.
"""

from __future__ import annotations

from app import app as application
from flask import Flask, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

app: Flask = application
REQUESTS = Counter("http_requests_total", "Requests of this worker.", ["method", "route", "status"])


@app.after_request
def count(response: Response) -> Response:
    if request.path != "/metrics":
        route = request.url_rule.rule if request.url_rule else "unmatched"
        REQUESTS.labels(request.method, route, str(response.status_code)).inc()
    return response


@app.get("/metrics")
def metrics() -> Response:
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)
