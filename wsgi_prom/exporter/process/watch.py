"""Watch for the end of the server's master, signal processes, and wait for descriptors."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class MasterWatch:
    """
    Tells whether the server has ended: its master *pid*, and every other master of the directory.

    gunicorn's USR2 starts a second arbiter in the same directory, which goes on when the first one ends. *others* returns
    the pids of such masters; 0 stands for one in another pid namespace, whose end shows only in *others*. The masters need not
    be parents of the caller, whose forked children may use the object too.
    """

    def __init__(self, pid: int, others: Callable[[], Iterable[int]]) -> None:
        self._others = others
        self._watch(pid)

    def _watch(self, pid: int) -> None:
        self._pid = pid
        # Readable when the process has ended, whatever process has its pid later. None on Linux before 5.3, and where a sandbox
        # forbids pidfd_open.
        self.fd: int | None = None
        try:
            self.fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pid = 0
        except (OSError, AttributeError):
            pass

    def ended(self) -> bool:
        while self._pid == 0 or (not exists(self._pid) if self.fd is None else wait([self.fd], 0)):
            if self.fd is not None:
                os.close(self.fd)
            self.fd, self._pid = None, 0
            following = max(self._others(), default=None)
            if not following:
                return following is None
            self._watch(following)
        return False


def exists(pid: int) -> bool:
    """Tell whether a process has *pid*. Not by /proc, which may hide the processes of other users (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid > 0


def send_signal(pid: int, number: int) -> None:
    """Send signal *number* to the process *pid*, which may have ended. Raises PermissionError for another user's."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait(descriptors: list[int], seconds: float) -> bool:
    """Wait until one of *descriptors* is readable, *seconds* at most. Returns whether one is."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
