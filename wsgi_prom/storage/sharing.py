"""Which directory this process shares: the one that the user named, or the one of the server that it runs below."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from wsgi_prom.errors import DirectoryError
from wsgi_prom.storage import opening, variables
from wsgi_prom.storage.locks import Locks

if TYPE_CHECKING:
    from pathlib import Path


def shared_directory() -> Path | None:
    """
    Return the directory to record into, None if no server has announced one, or that server has ended.

    Works in any process and interpreter, and makes nothing. It costs a handful of system calls.
    """
    found = variables.announced()
    if found is not None:
        # The kernel does not report a process's own locks: the master's other interpreters know it by its pid.
        if variables.announced(os.getpid()) is not None:
            return found
        with suppress(OSError, DirectoryError):
            if any(True for _ in Locks.of(found).servers()):
                return found
    named = variables.configured()
    return named and opening.own_directory(named)
