"""
Warn if the processes of one server share no directory: a scrape then reaches the metrics of one of them at random.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("wsgi_prom")

_GUNICORN: Final = "Start gunicorn with -c python:wsgi_prom.hooks.gunicorn, or set"
_UWSGI: Final = "Add shared-import = wsgi_prom.hooks.uwsgi to uWSGI's configuration, or set"

_warned = False


def warn_unshared(environ: WSGIEnvironment) -> None:
    """Log a warning, once in a process, if *environ* says that the server has several processes and they share no directory."""
    global _warned
    if _warned or not environ.get("wsgi.multiprocess") or not current_slot.unshared:
        return
    _warned = True
    if "uwsgi.version" in environ:
        remedy = _UWSGI
    else:
        remedy = _GUNICORN if str(environ.get("SERVER_SOFTWARE")).startswith("gunicorn") else "Set"
    log.warning(
        "wsgi_prom: the processes of this server share no directory; each scrape shows the metrics of one process at random. "
        "%s PROMETHEUS_MULTIPROC_DIR to an empty directory for all of them",
        remedy,
    )
