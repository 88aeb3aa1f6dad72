"""
Opening the shared directory, and files in it that belong to its user.

1. directory_walk.py opens the directory, and everything is done relative to its descriptor.
2. Root gives away only what the same call has made. What exists must belong to its user already, or is refused.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError
from wsgi_prom.store.directory_walk import Descent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.store.directory_walk import Owner

# How often a file is opened again that another root process has made and not given away yet, which takes microseconds.
_ATTEMPTS: Final = 20
_PAUSE_SECONDS: Final = 0.01

# The errors of `open_file` for something that is no file: a directory, a link, a socket.
NOT_A_FILE: Final = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO})

# With which a FIFO does not block, and a link to another place is not followed.
SAFE_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class NotOwnFileError(OSError):
    """A file is not a plain one, has a second name, or belongs to another user than its directory."""


def own_directory(path: Path, owner: Owner | None = None) -> Path:
    """
    Return where the processes of one user share values if *path* is named: there, or in a directory of their own below it.

    The latter where everybody can write to *path*, or it is root's and the user is not root: /tmp, a volume of Kubernetes.
    *owner*, a uid and a gid, is the user, by default the caller. Nothing is made, and what is there is not checked.
    """
    uid = os.geteuid() if owner is None else owner[0]
    try:
        status = path.stat()
        roots = status.st_uid in {0, Path("/").stat().st_uid}
    except OSError:
        return path
    open_to_all = bool(status.st_mode & stat.S_IWOTH)
    # Root could make a directory where the workers' user cannot reach it.
    reached = (
        owner is None
        or status.st_mode & stat.S_IXOTH
        or (status.st_mode & stat.S_IXGRP and status.st_gid == owner[1])
    )
    below = open_to_all or (roots and status.st_uid != uid and reached)
    return path / f"wsgi_prom-{uid}" if stat.S_ISDIR(status.st_mode) and below else path


@contextmanager
def opened(path: Path, uid: int | None = None) -> Iterator[int]:
    """
    Open the shared directory *path* and yield its descriptor; all that is done with its files is relative to that.

    It must belong to *uid*, and nobody else may be able to write to it; without *uid* it may be anybody's. Raises
    DirectoryError, which says what is wrong and what would be right, FileNotFoundError and other OSErrors.
    """
    fd = Descent(path, uid).open()
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_above(path: Path, uid: int) -> Iterator[int]:
    """Open *path*, the parent of a directory of *uid*'s. It may be another user's where that is safe: see directory_walk.py."""
    fd = Descent(path, None).reach(uid)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def made(path: Path, uid: int, owner: Owner | None, *, new: bool) -> Iterator[int]:
    """
    Do as `opened`, and make *path* and its parents if they are missing: given to *owner*, a uid and a gid, if there is one.

    If it is *new* it must be missing, and its parent must not.
    """
    fd = Descent(path, uid, owner, make=True, new=new).open()
    try:
        yield fd
    finally:
        os.close(fd)


def writable(folder: int) -> bool:
    """
    Return whether this process, as its present user, may make files in the directory *folder*: root may have given up its
    rights.
    """
    effective = os.access in os.supports_effective_ids
    return os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=effective)


def open_file(name: str, folder: int, flags: int, *, create: bool = True) -> int:
    """
    Open *name* in the directory *folder*, made if it is missing; *flags* are added to those that keep it safe.

    A file that is made belongs to the directory's user. Raises NotOwnFileError for one that does not, FileNotFoundError
    without *create*, other OSErrors: one of NOT_A_FILE for what is none.
    """
    flags |= SAFE_FLAGS
    user = os.fstat(folder)
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
            with suppress(FileExistsError):  # another process was faster
                return _make_file(name, folder, flags, user)
            continue
        except PermissionError as error:
            if os.lstat(name, dir_fd=folder).st_uid != user.st_uid:
                raise _not_own(name, os.lstat(name, dir_fd=folder), user) from error
            raise
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == user.st_uid:
            return fd
        os.close(fd)
        if status.st_size or not os.geteuid() == status.st_uid != user.st_uid:
            break
        time.sleep(_PAUSE_SECONDS)
    raise _not_own(name, status, user)


def read_file(name: str, folder: int, most: int) -> bytes:
    """
    Return what is in the file *name* of the directory *folder*. Raises FormatError beyond *most* bytes, NotOwnFileError,
    OSError.
    """
    fd = open_file(name, folder, os.O_RDONLY, create=False)
    try:
        size = os.fstat(fd).st_size
        if size > most:
            raise FormatError(f"{name} has {size} bytes")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def replace_file(name: str, folder: int, data: bytes) -> None:
    """
    Replace the file *name* of the directory *folder* by one with *data*, in one step. Raises OSError, and leaves the former one
    then.
    """
    new = f"{name}.new"
    try:
        with os.fdopen(open_file(new, folder, os.O_WRONLY), "wb") as file:
            # Not by O_TRUNC, which empties it before open_file has seen that it is ours, and has no other name.
            file.truncate(0)
            file.write(data)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise


def write_whole(fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write *data* at *offset* of the file *fd*. Raises OSError."""
    if os.pwrite(fd, data, offset) != len(data):
        # A disk that is nearly full takes a part of it, without an error.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_plain(
    path: str | Path, owners: frozenset[int] | None, *, folder: int | None = None
) -> tuple[int, os.stat_result]:
    """
    Open *path*, which is below the directory *folder* if that is given, to read it, and return its descriptor and state.

    Raises FormatError unless it is a plain file, and of one of *owners*, uids, unless they are None. Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | SAFE_FLAGS, dir_fd=folder)
    try:
        return fd, check_plain(fd, owners)
    except BaseException:
        os.close(fd)
        raise


def check_plain(fd: int, owners: frozenset[int] | None) -> os.stat_result:
    """Return the state of *fd*. Raises FormatError unless it is a plain file, and of one of *owners* unless they are None."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError("not a plain file")
    if owners is not None and status.st_uid not in owners:
        raise FormatError(f"belongs to uid {status.st_uid}, and others can write to the directory")
    return status


def _not_own(name: str, status: os.stat_result, user: os.stat_result) -> NotOwnFileError:
    if status.st_uid != user.st_uid:
        what = f"belongs to uid {status.st_uid}, the directory to uid {user.st_uid}"
    elif stat.S_ISREG(status.st_mode):
        what = "has another name too"
    else:
        what = "is not a plain file"
    return NotOwnFileError(errno.EPERM, what, name)


def _make_file(name: str, folder: int, flags: int, user: os.stat_result) -> int:
    fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        if user.st_uid != os.geteuid():
            os.fchown(fd, user.st_uid, user.st_gid)
    except BaseException:
        os.close(fd)
        raise
    return fd
