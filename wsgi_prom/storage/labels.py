"""
Which label sets a metric may have: one decision for all processes of a directory, without a lock.

A process that meets a new label set appends a line to a shared file and reads on to its end. The first so many lines
of a metric are allowed, the rest are not: O_APPEND puts the lines into one order, which all processes read alike.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "wsgi_prom.labels"

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class LabelSets:
    """
    The label sets that metrics have met, in this process and, if *path* is given, in all others that share it.

    Make one after the fork. Not for two threads at once.
    """

    def __init__(self, path: Path | None, limit: int, owner: tuple[int, int] | None = None) -> None:
        self._limit = limit
        self._allowed: dict[str, set[tuple[str, ...]]] = {}
        self._offset = 0
        self._fd: int | None = None
        if path is not None:
            self._fd = os.open(path / NAME, _FLAGS, 0o600)
            if owner is not None:
                os.fchown(self._fd, *owner)
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                os.close(self._fd)
                raise FormatError(f"{path / NAME} is not a plain file")

    def allow(self, metric: str, labels: tuple[str, ...]) -> bool:
        """
        Return whether *metric* may have *labels*; the answer for a label set never changes.

        Raises OSError when the file can be neither read nor written.
        """
        allowed = self._allowed.setdefault(metric, set())
        if labels in allowed:
            return True
        if self._fd is None:
            if len(allowed) < self._limit:
                allowed.add(labels)
            return labels in allowed
        # First what others have met: a worker that is recycled would else add a line for each label set that there is.
        self._read_on(self._fd)
        if labels not in allowed and len(allowed) < self._limit:
            os.write(self._fd, json.dumps([metric, *labels]).encode("ascii") + b"\n")
            self._read_on(self._fd)
        return labels in allowed

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _read_on(self, fd: int) -> None:
        data = os.pread(fd, max(os.fstat(fd).st_size - self._offset, 0), self._offset)
        lines = data[: data.rfind(b"\n") + 1]
        self._offset += len(lines)
        for line in lines.splitlines():
            try:
                metric, *labels = json.loads(line)
                allowed = self._allowed.setdefault(metric, set())
                if len(allowed) < self._limit:
                    allowed.add(tuple(labels))
            except (ValueError, TypeError):
                continue  # torn by a full disk: it is no one's, for all readers alike
