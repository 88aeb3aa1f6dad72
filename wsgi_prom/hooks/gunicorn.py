"""
The hook of gunicorn: `gunicorn -c python:wsgi_prom.hooks.gunicorn myapp:app`, or in one's own gunicorn.conf.py

    from wsgi_prom.hooks.gunicorn import *

A configuration that defines one of these functions itself replaces it, and calls ours in it.
"""

# gunicorn reads the configuration for --check-config and --print-config too, so that reading it makes nothing: the
# server starts with on_starting, in the arbiter, which comes after a preloaded application was imported.

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from wsgi_prom.hooks.instance import Instance
from wsgi_prom.middleware import PrometheusMiddleware
from wsgi_prom.storage import directory
from wsgi_prom.storage.lease import lease

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

__all__ = ("on_exit", "on_starting", "post_worker_init", "pre_exec")

_instance = Instance()


def on_starting(server: Arbiter) -> None:
    """Make the directory ready and start the exporter."""
    uid, gid = server.cfg.uid, server.cfg.gid
    # The arbiter stays root, the workers drop to --user.
    owner = (uid, gid) if os.geteuid() == 0 and uid != 0 else None
    reload = "GUNICORN_PID" in os.environ  # started by another arbiter's USR2, which still serves
    with _error_log(server) as log_file:
        _instance.start(reload=reload, owner=owner, log_file=log_file)


def pre_exec(server: Arbiter) -> None:
    """Name the directory to the arbiter that USR2 starts: it gets the environment from before the configuration."""
    server.cfg.env_orig[directory.VARIABLE] = str(_instance.path)


def post_worker_init(worker: Any) -> None:
    """Wrap the application, and claim a slot as the user that the worker has dropped to."""
    if _is_wsgi(worker):
        worker.wsgi = PrometheusMiddleware(worker.wsgi)
    else:
        worker.log.warning(
            "wsgi_prom: %s does not serve WSGI; its requests are not counted", type(worker).__name__
        )
    lease.renew()


def on_exit(server: Arbiter) -> None:  # noqa: ARG001 - gunicorn counts the parameters
    """Leave nothing behind."""
    _instance.stop()


def _is_wsgi(worker: Any) -> bool:
    # An ASGI worker keeps its application in the same attribute, and another signature.
    from gunicorn.workers.base_async import AsyncWorker  # noqa: PLC0415
    from gunicorn.workers.gthread import ThreadWorker  # noqa: PLC0415
    from gunicorn.workers.sync import SyncWorker  # noqa: PLC0415

    return isinstance(worker, (AsyncWorker, ThreadWorker, SyncWorker))


def _error_log(server: Arbiter) -> Any:
    path = server.cfg.errorlog
    if path and path != "-":
        return open(path, "ab")  # noqa: PTH123 - closed by the caller
    return nullcontext()
