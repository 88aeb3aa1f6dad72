"""
gunicorn reads this file by itself when it is started in this folder; only one import is about metrics.
"""

from __future__ import annotations

from pathlib import Path

# gunicorn calls the hook's functions after those of this configuration, if it has any of the same names.
from wsgi_prom.hooks.gunicorn import *  # noqa: F403

# The application of the other example, its code unchanged. gunicorn puts the folder it changes to on sys.path.
chdir = str(Path(__file__).resolve().parent.parent / "flask")
wsgi_app = "app:app"

bind = "127.0.0.1:8040"
workers = 4
# Threads share their worker's slot: more of them cost no more files.
threads = 2
