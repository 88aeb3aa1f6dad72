"""
A Flask application with prometheus-flask-exporter, set up as its README says; run as `peer_flask:app`.
"""

from __future__ import annotations

import os

from flask import Flask
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import (
    GunicornInternalPrometheusMetrics,
    GunicornPrometheusMetrics,
    UWsgiPrometheusMetrics,
)

KINDS = {
    "plain": PrometheusMetrics,
    "internal": GunicornInternalPrometheusMetrics,
    "gunicorn": GunicornPrometheusMetrics,
    "uwsgi": UWsgiPrometheusMetrics,
}

app = Flask("shop")
metrics = KINDS[os.environ["PEER_KIND"]](app)
metrics.info("shop_info", "The shop.", version="1.0")


@app.get("/")
def index() -> str:
    return "ok"


@app.get("/users/<int:user_id>")
@metrics.summary(
    "shop_profile_seconds", "Time of a profile.", labels={"status": lambda response: response.status_code}
)
@metrics.histogram(
    "shop_profile_buckets", "Time of a profile.", labels={"view": lambda: "user"}, buckets=(60.0,)
)
@metrics.counter("shop_views", "Profiles shown.", labels={"even": lambda: "yes"})
def user(user_id: int) -> str:
    return str(user_id)


@app.get("/fail")
def fail() -> str:
    raise ValueError("asked to fail")


@app.get("/busy")
@metrics.gauge("shop_busy", "Requests in this view.")
def busy() -> str:
    return "ok"


@app.get("/untracked")
@metrics.do_not_track()
def untracked() -> str:
    return "ok"
