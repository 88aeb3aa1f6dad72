"""`held:app` as an application that gives its spooler a task, which uses that metric too."""

from __future__ import annotations

import held
import uwsgi
from held import app

__all__ = ("app",)


def spool(_task: object) -> int:
    held.BEATS.labels("spooler").inc()
    return uwsgi.SPOOL_OK


uwsgi.spooler = spool
uwsgi.spool({b"task": b"1"})
