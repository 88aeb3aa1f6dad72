"""
`wsgi_prom.wsgi:application`: the application that WSGI_PROM_APP names, wrapped in the middleware. Any WSGI server can load it.
"""

from __future__ import annotations

from wsgi_prom.app_reference import load
from wsgi_prom.middleware import wrap_for_hook
from wsgi_prom.settings import Settings

application = wrap_for_hook(load(Settings.read().app))
