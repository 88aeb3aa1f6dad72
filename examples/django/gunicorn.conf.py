"""gunicorn reads this file by itself when it is started in this folder; only the first import is about metrics."""

from __future__ import annotations

# The hook's functions become this configuration's: it comes first, what you define below wins.
from wsgi_prom.hooks.gunicorn import *  # noqa: F403

wsgi_app = "shop.wsgi:application"
bind = "127.0.0.1:8041"
workers = 3
