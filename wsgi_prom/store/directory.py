"""
The shared directory: making it, checking it, clearing it and removing it. (shared_directory.py says which one it is.)

1. Only plain files are removed, under names that this package or the client library gives, relative to the opened
   directory: no link is followed.
2. Files of a living process are not removed: a slot with a record lock, a file of the client library's that is open.
3. directory_files.py opens the directory, for one operation at a time: it may be removed and made again meanwhile.
4. A directory that was made for one server is removed with it, and is known by its name: a file in it that says so could
   be missing, if the process was killed that was writing or removing it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import (
    archive,
    client_format,
    directory_errors,
    directory_files,
    directory_names,
    exit_counts,
    exporter_files,
    label_limit,
    locks,
    named_directory,
    stats_socket,
)
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.store.directory_walk import Owner

# The two files of every slot, and the one of those that have texts (text_file.py).
KINDS: Final = ("values", "keys")
TEXTS: Final = "texts"
_SLOT_FILE: Final = re.compile(r"wsgi_prom\.(0|[1-9][0-9]{0,5})\.(keys|values|texts|answers)(\.bad|\.new)?")
_OTHER_FILES: Final = frozenset({locks.NAME, label_limit.NAME})

_TEMPORARY_NAME: Final = re.compile(r"wsgi_prom-\d+-[0-9a-f]{16}")
# A younger directory may belong to a server that has made it and not locked it yet. The clock may be set in between: a
# server that has locked its directory looks whether that is still there.
_STALE_AFTER_SECONDS: Final = 60
_ATTEMPTS: Final = 3


def name_temporary() -> Path:
    """Choose a name for a directory of one server, without making it. Never raises."""
    return directory_names.base() / f"wsgi_prom-{os.geteuid()}-{os.urandom(8).hex()}"


def is_temporary(path: Path) -> bool:
    """Return whether *path* is a name for a directory of one server, or of those of one name, which is removed at their end."""
    return _TEMPORARY_NAME.fullmatch(path.name) is not None or directory_names.is_named(path)


def prepare(path: Path, *, new: bool = False, owner: Owner | None = None) -> LockFile:
    """
    Make *path* if it is missing (it has to be if it is *new*) and check that it may be used; nothing in it is changed.

    *owner*, a uid and a gid, is the user that the workers run as where that is not the caller. Raises DirectoryError,
    which says what is wrong and what would be right.
    """
    uid = os.geteuid() if owner is None else owner[0]
    problem: OSError | None = None
    for _ in range(_ATTEMPTS):
        try:
            with directory_files.made(path, uid, owner, new=new) as folder:
                _refuse_unwritable(path, folder)
                return LockFile.within(folder, path, create=True)
        except FileNotFoundError as error:  # another process may remove it before there is a lock in it
            problem = error
        except OSError as error:
            problem = error
            break
    said = f": {(problem and problem.strerror) or problem}"
    raise directory_errors.error(path, said, directory_errors.WRITABLE) from problem


def check(path: Path) -> None:
    """
    Raise DirectoryError unless *path* is a directory that nobody but the caller and root can write to.

    Nothing is made. What a third user owns is refused: the directory, one above it, a link on the way.
    """
    try:
        with directory_files.opened(path, os.geteuid()) as folder:
            _refuse_unwritable(path, folder)
    except OSError as error:
        raise directory_errors.error(path, f": {error.strerror or error}", directory_errors.OWN) from error


def slot_numbers(path: Path) -> list[int]:
    """Return the numbers of the slots that have a value file in *path*, in order."""
    matches = (_SLOT_FILE.fullmatch(name) for name in os.listdir(path))
    return sorted(int(match[1]) for match in matches if match and match[2] == "values" and not match[3])


def client_files(folder: int | Path) -> list[str]:
    """Return the names of the files in *folder* that the client library's own multiprocess mode wrote. Raises OSError."""
    return sorted(name for name in os.listdir(folder) if client_format.origin(name))


def trusted_uids(path: Path) -> frozenset[int]:
    """
    Return the uids whose files count in *path*: its owner's and root's.

    Raises OSError, also for a directory that another user has put there, or has chosen by a link.
    """
    try:
        with directory_files.opened(path) as folder:
            uid = os.fstat(folder).st_uid
    except DirectoryError as error:
        raise PermissionError(errno.EPERM, str(error)) from error
    # Root looks at the directories of all, and others at theirs.
    if uid != 0 and os.geteuid() not in {0, uid}:
        raise PermissionError(errno.EPERM, f"it belongs to uid {uid}")
    return frozenset({0, uid})


def has_metrics(path: Path) -> bool:
    """Return whether a process has recorded into *path*, through us or through the client library alone. Raises OSError."""
    return bool(slot_numbers(path) or client_files(path))


def slot_file(number: int | str, kind: str) -> str:
    """Return the name of a file of slot *number*; *kind* is one of KINDS, or TEXTS."""
    return f"wsgi_prom.{number}.{kind}"


def set_aside(folder: int, number: int, *kinds: str) -> bool:
    """
    Rename the files of slot *number*, or only those of *kinds*, to `.bad`, for somebody to look at. Earlier ones are replaced.

    The directory is open as *folder*. Returns False if a folder with something in it has that name.
    """
    for kind in kinds or (*KINDS, TEXTS):
        bad = slot_file(number, kind)
        aside = f"{bad}.bad"
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.rmdir(aside, dir_fd=folder)
            with suppress(FileNotFoundError):
                os.rename(bad, aside, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR}:
                raise
            return False
    return True


def holders(path: Path, lock_file: LockFile) -> list[tuple[str, int]]:
    """Return what processes other than this one hold in *path*: a role and a pid (0 in another pid namespace) each."""
    roles = [("exporter", locks.EXPORTER)]
    roles += [("server", byte) for byte in locks.SERVERS]
    roles += [(f"slot {number}", locks.FIRST_SLOT + number) for number in slot_numbers(path)]
    held = [(role, lock_file.holder(byte)) for role, byte in roles if not lock_file.mine(byte)]
    return [(role, pid) for role, pid in held if pid is not None]


def clear(path: Path, lock_file: LockFile) -> None:
    """
    Remove the files of earlier runs from *path*, whose lock file is *lock_file*. A slot that is taken meanwhile keeps its
    files.
    """
    with directory_files.opened(path) as folder:
        # Otherwise somebody has put another directory there.
        names = os.listdir(folder) if lock_file.lies_in(folder) else []
        # The archive last: without it the files that are in it count again.
        for name in sorted(names, key=archive.NAME.__eq__):
            slot = _SLOT_FILE.fullmatch(name)
            if slot:
                byte = locks.FIRST_SLOT + int(slot[1])
                if lock_file.mine(byte) or not lock_file.acquire(byte):
                    continue
                _remove(name, folder)
                lock_file.release(byte)
            elif (
                name == label_limit.NAME
                or exit_counts.own(name)
                or exporter_files.own(name)
                or archive.is_own(name)
                or (client_format.origin(name) and archive.process_has_ended(folder, name))
            ):
                _remove(name, folder)


def discard(path: Path, lock_file: LockFile) -> bool:
    """
    Remove a directory that was made for one server, if no other server's master uses it; one of a name, if no other process
    does.

    Returns whether it is gone.

    *lock_file* is that of the directory as the caller knows it. Several processes may do this at the same time, or go on
    where one of them was killed. Workers that outlive a killed master (uWSGI's do, without no-orphans) go on in
    files that have no name any more.
    """
    try:
        with directory_files.opened(path) as folder:
            if not _empty(path, folder, lock_file):
                return False
            with directory_files.opened_above(path.parent, os.fstat(folder).st_uid) as parent:
                os.rmdir(path.name, dir_fd=parent)
    except FileNotFoundError:
        if os.path.lexists(path):
            return False
    except (OSError, DirectoryError):
        return False  # somebody has put something there, which is not ours to remove
    if is_temporary(path):
        stats_socket.remove(path)
    return True


def _empty(path: Path, folder: int, lock_file: LockFile) -> bool:
    """Remove what is ours from the directory of one server, open as *folder*, unless it is in use."""
    current = LockFile.within(folder, path)
    if not is_temporary(path) or (current is not lock_file and lock_file.discarded):
        return False  # in the latter case somebody else has made it again
    if _in_use(path, current, lock_file):
        return False
    for known in (current, lock_file):
        with suppress(OSError):  # what is removed may be what makes space for it
            known.mark_discarded()
    # Again: a process that enters looks for the mark after that, so one of the two sees the other.
    if _in_use(path, current, lock_file):
        current.mark_used()
        return False
    # The lock file last: without one it is as good as empty.
    for name in sorted(os.listdir(folder), key=locks.NAME.__eq__):
        ours = name in _OTHER_FILES or _SLOT_FILE.fullmatch(name) or exit_counts.own(name)
        if ours or exporter_files.own(name) or archive.is_removable(name):
            _remove(name, folder)
    return True


def _in_use(path: Path, *lock_files: LockFile) -> bool:
    named = directory_names.is_named(path)
    return any(file.has_servers() or (named and named_directory.in_use(file)) for file in lock_files)


def sweep(own: Path, owner: Owner | None = None) -> None:
    """
    Remove the directories that servers of this user left beside *own*, that of the caller's server, which is locked by now.

    They were killed together with their exporter, or, under uWSGI, had none at their end. Those of *owner* too, the user
    that root's workers drop to.
    """
    users = {os.geteuid()} | ({owner[0]} if owner else set())
    for path in own.parent.iterdir():
        try:
            status = path.lstat()
            old = time.time() - status.st_mtime > _STALE_AFTER_SECONDS
            if not (old and stat.S_ISDIR(status.st_mode) and status.st_uid in users):
                continue
            server = stats_socket.server(path)
            if server is not None and is_temporary(server) and not os.path.lexists(server):
                stats_socket.remove(server)
            elif is_temporary(path) and path != own:
                try:
                    lock_file = LockFile.of(path)
                except FileNotFoundError:
                    path.rmdir()
                    continue
                try:
                    if not holders(path, lock_file):
                        discard(path, lock_file)
                finally:
                    lock_file.close()
        except (OSError, DirectoryError):
            continue  # another server sweeps too, or the directory holds what is not ours


def _refuse_unwritable(path: Path, folder: int) -> None:
    if not directory_files.writable(folder):
        raise directory_errors.error(path, " cannot be written by this process", directory_errors.OWN)


def _remove(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            os.unlink(name, dir_fd=folder)
