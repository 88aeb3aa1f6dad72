"""
Opening a directory one component of its path after the other, safe from other users who can change the path.

1. Each component is opened relative to the one before it, and the kernel follows no link: the descriptor is what was
   checked, whatever is renamed meanwhile.
2. A directory on the way, or a link, is refused if it belongs to a third user: neither root, nor the user of the shared
   directory, nor the caller.
3. Root makes nothing in a directory of its own that another user may have put in the path.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wsgi_prom.store import directory_errors

if TYPE_CHECKING:
    from wsgi_prom.errors import DirectoryError

# O_PATH: to pass through a directory takes no right to list it.
_PASS_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# As the kernel has it (MAXSYMLINKS).
_MOST_LINKS: Final = 40

Owner = tuple[int, int]


class Descent:
    """The way from the root directory to *path*, one component after the other."""

    def __init__(
        self,
        path: Path,
        uid: int | None,
        owner: Owner | None = None,
        *,
        make: bool = False,
        new: bool = False,
    ) -> None:
        self._path = path
        self._uid = uid
        self._owner = owner
        self._make = make
        self._new = new
        # Each with whether it comes from a link: what a link leads to is not made.
        self._names = [(name, False) for name in reversed(os.path.normpath(path.absolute()).split("/"))]
        self._links = 0
        # Directories and links on the way, and whose they are.
        self._passed: list[tuple[Path, str, int]] = []
        self._here = os.open("/", _PASS_FLAGS)
        self._found = os.fstat(self._here)
        self._where = Path("/")
        # Where root is not mapped (a user namespace), the owner of the root directory stands for it.
        self._root_uids = {0, self._found.st_uid}
        # Whether nobody but root can have chosen what is here.
        self._chosen_by_root = True

    def open(self) -> int:
        fd = self.reach(self._uid)
        try:
            if self._uid is not None:
                self._check(self._uid)
            return os.open(".", _LIST_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)

    def reach(self, uid: int | None) -> int:
        """Return a descriptor of *path*. *uid* is the user of the shared directory, by default the owner of *path*."""
        try:
            while self._names:
                name, linked = self._names.pop()
                if name not in {"", "."}:
                    self._step(name, linked)
            self._refuse_strangers(self._found.st_uid if uid is None else uid)
        except BaseException:
            os.close(self._here)
            raise
        return self._here

    def _step(self, name: str, linked: bool) -> None:
        last = not any(name not in {"", "."} for name, _ in self._names)
        try:
            fd = os.open(name, _PASS_FLAGS, dir_fd=self._here)
        except FileNotFoundError:
            if not self._make or linked or (self._new and not last):
                raise
            self._make_directory(name, last)
            fd = os.open(name, _PASS_FLAGS, dir_fd=self._here)
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                raise
            self._follow(name, last)
            return
        else:
            if self._new and last:
                os.close(fd)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._path))
        above, self._found = self._found, os.fstat(fd)
        self._passed.append((self._where, "belongs", above.st_uid))
        self._chosen_by_root = self._chosen_by_root and self._fixed(above, self._found)
        self._where /= name
        os.close(self._here)
        self._here = fd

    def _follow(self, name: str, last: bool) -> None:
        """Go on with what the link *name* says, if it is one."""
        link = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._here)
        try:
            status = os.fstat(link)
            if not stat.S_ISLNK(status.st_mode):
                if last:
                    raise self._error(" is not a directory", directory_errors.NO_DIRECTORY)
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            # By its descriptor: another one may be in its place by now.
            target = os.readlink("", dir_fd=link)
        finally:
            os.close(link)
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path))
        self._passed.append((self._where, "belongs", self._found.st_uid))
        self._passed.append((self._where / name, "is a link that belongs", status.st_uid))
        self._chosen_by_root = self._chosen_by_root and self._fixed(self._found, status)
        self._names += [(part, True) for part in reversed(target.split("/"))]
        if target.startswith("/"):
            os.close(self._here)
            self._here = os.open("/", _PASS_FLAGS)
            self._found, self._where = os.fstat(self._here), Path("/")

    def _refuse_strangers(self, uid: int) -> None:
        for where, belongs, owner in self._passed:
            if owner not in self._root_uids | {uid, os.geteuid()}:
                which = "" if where == self._path else f": {where}"
                raise self._error(
                    f"{which} {belongs} to uid {owner}, who can put another directory there; the workers run as uid {uid}",
                    directory_errors.NO_LINK if "link" in belongs else directory_errors.BELOW_ROOTS,
                )

    def _check(self, uid: int) -> None:
        if self._found.st_uid != uid:
            raise self._error(
                f" belongs to uid {self._found.st_uid}, the workers run as uid {uid}", directory_errors.OWN
            )
        if self._found.st_mode & stat.S_IWOTH:
            raise self._error(" can be written by everybody", directory_errors.OWN)

    def _error(self, problem: str, remedy: directory_errors.Remedy) -> DirectoryError:
        return directory_errors.error(self._path, problem, remedy)

    def _make_directory(self, name: str, last: bool) -> None:
        self._passed.append((self._where, "belongs", self._found.st_uid))
        self._refuse_strangers(os.geteuid() if self._uid is None else self._uid)
        mode = 0o700 if last else 0o755
        if self._owner is None:
            with suppress(FileExistsError):
                # With a mode: the umask alone, 000, would open it to everybody.
                os.mkdir(name, mode, dir_fd=self._here)
            return
        if not self._chosen_by_root and self._found.st_uid != self._owner[0]:
            raise self._error(
                f" cannot be made: {self._where} is root's, and another user can put it there",
                directory_errors.MADE_BY_HAND,
            )
        # Root keeps a parent only where nobody else can replace it.
        owner = self._owner if last or not self._fixed(self._found) else (os.geteuid(), os.getegid())
        self._make_and_give(name, mode, owner)

    def _make_and_give(self, name: str, mode: int, owner: Owner) -> None:
        """
        Make the directory *name* as root, and show it when it is *owner*'s.

        In a directory that only root can enter: in one that others can write to, they could put another directory of
        root's in the place of what was made, before it is opened to be given away.
        """
        stage = f"wsgi_prom-{os.geteuid()}-{os.urandom(8).hex()}"
        os.mkdir(stage, 0o700, dir_fd=self._here)
        stage_fd = os.open(stage, _PASS_FLAGS, dir_fd=self._here)
        try:
            status = os.fstat(stage_fd)
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise OSError(errno.EPERM, "another user has replaced what was being made", name)
            try:
                os.mkdir(stage, 0o700, dir_fd=stage_fd)
                fd = os.open(stage, _LIST_FLAGS, dir_fd=stage_fd)
                try:
                    os.fchmod(fd, mode)  # whatever the umask
                    os.fchown(fd, *owner)
                finally:
                    os.close(fd)
                os.rename(stage, name, src_dir_fd=stage_fd, dst_dir_fd=self._here)
            except OSError as error:
                with suppress(OSError):
                    os.rmdir(stage, dir_fd=stage_fd)
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:  # another process was faster
                    raise
        finally:
            os.close(stage_fd)
            os.rmdir(stage, dir_fd=self._here)

    def _fixed(self, folder: os.stat_result, entry: os.stat_result | None = None) -> bool:
        """Return whether nobody but root can replace what is in *folder*: all of it, or, below a sticky one, *entry*."""
        if folder.st_uid not in self._root_uids:
            return False
        group = stat.S_IWGRP if folder.st_gid != 0 else 0
        if not folder.st_mode & (group | stat.S_IWOTH):
            return True
        return bool(folder.st_mode & stat.S_ISVTX) and entry is not None and entry.st_uid in self._root_uids
