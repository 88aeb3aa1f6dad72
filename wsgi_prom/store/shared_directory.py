"""Which directory this process shares: the one that the user named, or the one of the server that it runs below."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory_files, environment
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path


def shared_directory() -> Path | None:
    """
    Return the directory to record into, None if no server has announced one, or that server has ended.

    Works in any process and interpreter, and makes nothing. It costs a handful of system calls.
    """
    found = environment.announced()
    if found is not None:
        # The kernel does not report a process's own locks: the master's other interpreters know it by its pid.
        if environment.announced(os.getpid()) is not None:
            return found
        with suppress(OSError, DirectoryError):
            if LockFile.of(found).has_servers():
                return found
    named = environment.configured()
    return named and directory_files.own_directory(named)
