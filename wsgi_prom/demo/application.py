"""The application that the demo's server serves: examples/flask as it is, and the naive endpoint around it."""

from __future__ import annotations

from importlib import import_module

from wsgi_prom.demo.naive import Naive

application = Naive(import_module("app").app)
