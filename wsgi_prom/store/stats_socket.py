"""
The socket of the stats server that a uWSGI without one gets: in a directory beside that of its server, and removed with it.

1. Only the server's user and root can connect: its answers hold the headers of requests in progress.
2. The application does not know this directory. uWSGI ends where it cannot bind the socket, so an application that empties
   PROMETHEUS_MULTIPROC_DIR must not meet it.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = "stats"
_SUFFIX: Final = ".stats"
# uWSGI refuses a longer path (bind_to_unix of core/socket.c).
_LONGEST_PATH: Final = 102


def make(path: Path) -> Path | None:
    """
    Make the socket's directory for the server of the directory *path*, and return where the socket can be bound.

    None if it cannot: that was tried. Raises OSError.
    """
    folder = _beside(path)
    with suppress(FileExistsError):  # after a reload
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    place = folder / _NAME
    # Of servers that share a name, the first one has it.
    if not own or len(os.fsencode(place)) > _LONGEST_PATH or _answers(place):
        return None
    # uWSGI removes what a former server has left, too.
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as tried:
        tried.bind(str(place))
        place.unlink()
    return place


def _answers(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(place))
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
    return True


def remove(path: Path) -> None:
    """Remove the socket of the server of the directory *path*, and the socket's directory. Never raises."""
    folder = _beside(path)
    with suppress(OSError):
        # No link is followed: everybody may write to the directory above.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISSOCK(os.lstat(_NAME, dir_fd=fd).st_mode):
                os.unlink(_NAME, dir_fd=fd)
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
        folder.rmdir()


def server(folder: Path) -> Path | None:
    """Return the directory of the server that the socket in *folder* is of, by its name; None if it is no such folder."""
    return folder.with_suffix("") if folder.suffix == _SUFFIX else None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}{_SUFFIX}")
