"""The descriptors of a slot's keys and values: opened again if other code of the process has closed them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsgi_prom.errors import FormatError
from wsgi_prom.store import directory, directory_files
from wsgi_prom.store.descriptor import Descriptor

if TYPE_CHECKING:
    from pathlib import Path


class OpenFiles:
    """The files of slot *number* in *path*, which belong to *uid*. Call `open` before anything else."""

    def __init__(self, path: Path, number: int, uid: int) -> None:
        self._path = path
        self._number = number
        self._uid = uid
        self._files: dict[str, Descriptor] = {}

    def open(self) -> None:
        """
        Open the files; make those that are missing. Raises FormatError for one that cannot be used, DirectoryError, OSError.
        """
        with directory_files.opened(self._path, self._uid) as folder:
            for kind in directory.KINDS:
                self._files[kind] = self._open(kind, folder)

    def in_place(self, kind: str) -> bool:
        """Return whether the file of *kind* is the one that its name leads to."""
        try:
            found = (self._path / directory.slot_file(self._number, kind)).lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._files[kind].identity

    def fd(self, kind: str) -> int:
        """Return a descriptor for immediate use; opened again if other code has closed it. Raises OSError."""
        file = self._files[kind]
        if not file.is_open() and self.in_place(kind):
            with directory_files.opened(self._path, self._uid) as folder:
                again = self._open(kind, folder)
            if again.identity == file.identity:
                file = self._files[kind] = again
            else:
                again.close()
        return file.number()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _open(self, kind: str, folder: int) -> Descriptor:
        name = directory.slot_file(self._number, kind)
        try:
            return Descriptor(directory_files.open_file(name, folder, os.O_RDWR))
        except OSError as error:
            if (
                isinstance(error, directory_files.NotOwnFileError)
                or error.errno in directory_files.NOT_A_FILE
            ):
                raise FormatError(f"{self._path / name} cannot be used: {error.strerror}") from error
            raise
