"""
Servers whose workers never have enough file descriptors for a slot, and just enough for themselves: a configuration of
gunicorn, and a module for uWSGI's shared-import.
"""

from __future__ import annotations

import importlib

import descriptors

from wsgi_prom.store.current_slot import current_slot

try:
    import uwsgidecorators
except ImportError:
    from wsgi_prom.hooks import gunicorn

    def post_fork(server, worker) -> None:
        descriptors.take(spare=0)
        gunicorn.post_fork(server, worker)
        # A pipe, a connection, and one for the import that gunicorn tries in each request.
        descriptors.release(4)

else:

    def after_fork() -> None:
        # The descriptors of the master's slot would else be free for the worker's.
        current_slot.part_from_parent()
        descriptors.take(spare=0)

    uwsgidecorators.postfork(after_fork)
    importlib.import_module("wsgi_prom.hooks.uwsgi")
    # A pipe, an epoll set, a connection.
    uwsgidecorators.postfork(lambda: descriptors.release(4))
