"""The plain application, wrapped more often than once: `twice:app`, `twice:made()`, `twice:other_app`."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import plain

from wsgi_prom import PrometheusMiddleware

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

app = PrometheusMiddleware(PrometheusMiddleware(plain.app, buckets=(1, 2)))


def made() -> WSGIApplication:
    """Make an application, as some do once for the command line and once for the server."""
    make = PrometheusMiddleware(plain.app)
    return PrometheusMiddleware(make)


if __name__ != "another_name":
    # The same file once more, as a script that is imported by its module's name is.
    spec = importlib.util.spec_from_file_location("another_name", __file__)
    assert spec is not None
    assert spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    sys.modules["another_name"] = other
    spec.loader.exec_module(other)
    other_app = PrometheusMiddleware(other.app)
