"""Keeps targets registered until the end of their exporter: what each kind of registration does, and the one in a file."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from wsgi_prom.discovery.target_file import TargetFile, TargetFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsgi_prom.discovery.targets import Group

    Read = Callable[[], Sequence[Group]]
    Tell = Callable[[bool], None]

log = logging.getLogger("wsgi_prom")

# A worker that was killed is noticed in about that time.
LOOK_SECONDS = 1.0


class End:
    """
    The end of a registration, once `event` is set: by an orderly end of the exporter, with *withdraw*, or by another one.

    Without *withdraw* the targets stay registered for as long as another process may need to register them again.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.withdraw = False


class Registration(Protocol):
    """Keeps what is read registered, in a thread of its own."""

    def run(self, read: Read, tell: Tell, end: End) -> None:
        """
        Register what *read* returns, from now until *end*. Retries what fails, logs it once, and calls *tell* with whether it works.
        """


class FileRegistration:
    """Keeps targets in the file at *path*, and for *seconds* after its exporter was killed."""

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._file = TargetFile(path)

    def run(self, read: Read, tell: Tell, end: End) -> None:
        """See `Registration`."""
        problem: str | None = ""
        while not end.event.is_set():
            try:
                self._file.write(read())
                if problem is not None:
                    log.info("targets are registered in %s", self._path)
                problem = None
                tell(True)
            except TargetFileError as error:
                tell(False)
                if problem != (problem := str(error)):
                    log.warning(
                        "WSGI_PROM_SD='file:%s' %s. It is tried again every second", self._path, problem
                    )
            end.event.wait(LOOK_SECONDS)
        if not end.withdraw:
            # The process that goes on takes the file, and is then the one that removes it.
            self._file.release()
            deadline = time.monotonic() + self._seconds
            while self._file.is_as_written() and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(left, LOOK_SECONDS))
        self._file.remove()
