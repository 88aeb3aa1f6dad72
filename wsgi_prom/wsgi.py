"""
`wsgi_prom.wsgi:application`: the application that WSGI_PROM_APP names (`myapp:app`), measured. For any server.
"""

from __future__ import annotations

from wsgi_prom.app_reference import load
from wsgi_prom.middleware import wrap_for_hook
from wsgi_prom.settings import Settings

application = wrap_for_hook(load(Settings.read().app))
