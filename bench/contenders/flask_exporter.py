"""Flask with prometheus-flask-exporter, as it is run under gunicorn with several workers."""

from __future__ import annotations

from typing import Any

from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from contenders.flask_bare import application as flask


def application() -> Any:
    app = flask()
    GunicornInternalPrometheusMetrics(app)
    return app
