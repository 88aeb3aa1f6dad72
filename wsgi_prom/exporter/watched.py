"""
Values that are loaded from files, and loaded again when one of the files changes.

1. A changed file is checked before it is used. If it cannot be used, the last good value stays in use.
2. Each state of a file that cannot be used is logged once.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from wsgi_prom.errors import SettingError
from wsgi_prom.store import fork_locks

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("wsgi_prom")

T = TypeVar("T")

# Larger than any token, list of users or chain of certificates: such a file was named by mistake.
_LARGEST: Final = 1024 * 1024


class Files:
    """Reads files, and tells later whether one of them has changed."""

    def __init__(self) -> None:
        self._states: dict[Path, tuple[int, ...]] = {}

    def read(self, name: str, path: str, *, private: bool = False) -> bytes:
        """
        Return the content of the file at *path*, which messages call *name*.

        Raises SettingError if it cannot be read, and for a *private* file that other users can read or write.
        """
        # Before the content, so that `changed` notices a change during the read.
        self._states[Path(path)] = _state(Path(path))
        try:
            # O_NONBLOCK: do not wait for the writer of a pipe.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as file:
                mode = os.fstat(fd).st_mode
                content = file.read(_LARGEST + 1) if stat.S_ISREG(mode) else b""
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise SettingError(
                f"{name}={path!r} cannot be read: {getattr(error, 'strerror', error)}. Name a file that this server's "
                f"user (uid {os.geteuid()}) can read."
            ) from error
        if not stat.S_ISREG(mode) or len(content) > _LARGEST:
            raise SettingError(f"{name}={path!r} is not a regular file of at most 1 MB. Name one.")
        if private and mode & stat.S_IRWXO:
            raise SettingError(f"{name}={path!r} can be read or written by others. Run chmod o-rwx on it.")
        return content

    def changed(self) -> bool:
        return any(_state(path) != state for path, state in self._states.items())


class Watched(Generic[T]):
    """
    The value that *load* returns. It is loaded again when a file changes that *load* has read.

    Raises SettingError if the first load does. For any number of threads.
    """

    def __init__(self, load: Callable[[Files], T]) -> None:
        self._load = load
        self._lock = fork_locks.lock()
        self._files = Files()
        self._value = load(self._files)

    @property
    def value(self) -> T:
        if self._files.changed():
            with self._lock:
                if self._files.changed():
                    self._reload()
        return self._value

    def _reload(self) -> None:
        files = Files()
        try:
            self._value = self._load(files)
        except SettingError as error:
            log.error("%s Until then, wsgi_prom uses the last good version.", error)
        # Only now: other threads go through the files meanwhile.
        self._files = files


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
