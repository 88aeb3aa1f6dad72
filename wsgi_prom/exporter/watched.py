"""What is made of files that others write: made again when they change, checked before it counts."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from wsgi_prom.errors import SettingError
from wsgi_prom.store import fork_locks

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("wsgi_prom")

T = TypeVar("T")

# A token, a few users, a key: more is another file than the one that was meant.
_LARGEST: Final = 1024 * 1024


class Watched(Generic[T]):
    """
    What *load* makes of the files at *paths*, made again when one of them changes.

    Raises SettingError, at first. Later a file that cannot be used is logged, once for each state of it, and what was
    made before stays in force: whoever replaces a file may be halfway through it.
    """

    def __init__(self, load: Callable[[], T], *paths: str) -> None:
        self._load = load
        self._paths = paths
        self._lock = fork_locks.lock()
        # Looked at before it is read: what changes meanwhile is another look's change.
        self._seen = self._look()
        self._value = load()

    @property
    def value(self) -> T:
        if self._look() != self._seen:
            with self._lock:
                self._reload()
        return self._value

    def _reload(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._value = self._load()
        except SettingError as error:
            log.error("%s Until then, what was there before is in force.", error)

    def _look(self) -> list[tuple[int, int, int, int] | None]:
        return [_state(path) for path in self._paths]


def read(name: str, path: str, *, secret: bool = True) -> bytes:
    """
    Return the content of the file at *path*, which setting *name* names.

    Raises SettingError if it cannot be read, and if it is *secret* and others can read it too.
    """
    try:
        # Not waiting for the writer of a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            content = file.read(_LARGEST + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise SettingError(
            f"{name}={path!r} cannot be read: {error.strerror}. Name a file that this server's user (uid "
            f"{os.geteuid()}) can read."
        ) from error
    if not stat.S_ISREG(mode) or len(content) > _LARGEST:
        raise SettingError(f"{name}={path!r} is no plain file of at most 1 MB. Name one.")
    if secret and mode & stat.S_IRWXO:
        raise SettingError(f"{name}={path!r} can be read or written by others. Run chmod o-rwx on it.")
    return content


def _state(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - for each request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
