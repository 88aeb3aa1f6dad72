"""The stats server of a uWSGI: its own, or one that the hook adds to its options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import uwsgi

from wsgi_prom.hooks.instance import attempt
from wsgi_prom.server import uwsgi_stats
from wsgi_prom.store import directory, stats_socket

if TYPE_CHECKING:
    from pathlib import Path


def address(path: Path) -> str:
    """
    Return where the stats server listens of the uWSGI whose directory is *path*, as `uwsgi_stats.address` does; empty if
    nowhere.

    Call it in the master, before it forks. One is added only beside a directory that was made for the server: no other place is
    known to stay there until uWSGI binds the socket.
    """
    given = uwsgi_stats.address(uwsgi.opt)
    if given is not None or "stats" in uwsgi.opt or "stats-server" in uwsgi.opt:
        return given or ""
    # Where workers drop to another user than the master's, neither they nor the exporter could connect.
    usable = uwsgi.masterpid() > 0 and not (os.geteuid() == 0 and "uid" in uwsgi.opt)
    # No permissions protect an abstract socket.
    usable = usable and not uwsgi_stats.binds_abstract(uwsgi.opt)
    if not (usable and directory.is_temporary(path) and path.is_dir()):
        return ""
    with attempt("no metrics of uWSGI's own: set stats = /PATH/TO/SOCKET"):
        place = stats_socket.make(path)
        if place is not None and _set_option(b"stats", os.fsencode(place)):
            return uwsgi_stats.address({**uwsgi.opt, "stats": str(place)}) or ""
    return ""


def _set_option(name: bytes, value: bytes) -> bool:
    """Do what the line *name* = *value* in uWSGI's configuration does, for an option that is looked at later."""
    import ctypes  # noqa: PLC0415 - some builds of Python have none

    # As uWSGI's own plugins do (uwsgi.h). pyuwsgi, a module of Python, does not show its functions.
    program = ctypes.CDLL(None)
    manage = getattr(program, "uwsgi_manage_opt", None)
    if manage is None:
        return False
    # uWSGI keeps the pointer, not the text.
    program.strdup.restype = ctypes.c_void_p
    return bool(manage(ctypes.c_char_p(name), ctypes.c_void_p(program.strdup(value))))
