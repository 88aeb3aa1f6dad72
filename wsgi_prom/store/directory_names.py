"""
The names of directories that are made for the processes of one name: a server, and those that join it.

They are made in shared memory, and the names say whose they are: `wsgi_prom-UID.NAME`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

# Memory-backed on every current distribution; a store to a page of a disk's file may wait for its write-back.
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a directory of its own is made below it, or refused
_NAME: Final = re.compile(r"wsgi_prom-\d+\.[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)


def base() -> Path:
    """
    Return where directories are made that nobody has chosen: on tmpfs, or where other temporary files are.

    Never raises: where nothing can be written to, it is a place where no directory can be made.
    """
    if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        import tempfile  # noqa: PLC0415 - 4 ms that each worker would pay

        with suppress(FileNotFoundError):  # there is no temporary directory either
            return Path(tempfile.gettempdir())
    return _SHARED_MEMORY


def directory_of(name: str, uid: int | None = None) -> Path:
    """Return the directory of the processes of the user *uid*, by default the caller's, that share *name*. Makes nothing."""
    return base() / f"wsgi_prom-{os.geteuid() if uid is None else uid}.{name}"


def is_named(path: Path) -> bool:
    """Return whether *path* is that of a name."""
    return _NAME.fullmatch(path.name) is not None


def name_of(path: Path) -> str | None:
    """Return the name of the processes that share *path*, None if it is not made for a name."""
    return path.name.partition(".")[2] if is_named(path) else None


def is_own(path: Path) -> bool:
    """Return whether *path* is where processes of the caller's user meet that share a name: any of them may make it."""
    name = name_of(path)
    return name is not None and path == directory_of(name)
