"""Other processes: whether one is still there, by a descriptor of it that becomes readable at its end; and ending it."""

from __future__ import annotations

import os
import select
from contextlib import suppress


class Life:
    """
    The life of the process *pid*, which need not be a child; a later process with the same pid is not mistaken for it.

    A forked child can go on asking.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._gone = False
        # None on Linux before 5.3, and where a sandbox forbids it.
        self.fd: int | None = None
        try:
            self.fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone = True
        except (OSError, AttributeError):
            pass

    def over(self) -> bool:
        if self.fd is None:
            return self._gone or self._pid < 1 or not _exists(self._pid)
        return wait([self.fd], 0)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd, self._gone = None, True


def terminate(pid: int, number: int) -> None:
    """Send signal *number* to the process *pid*, which may have ended. Raises PermissionError for another user's."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _exists(pid: int) -> bool:
    # Not by /proc, which may hide the processes of other users (hidepid).
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def wait(descriptors: list[int], seconds: float) -> bool:
    """Wait until one of *descriptors* is readable, *seconds* at most, or not as long if a signal's handler raises."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
