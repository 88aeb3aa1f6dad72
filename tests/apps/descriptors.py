"""Taking and giving back the file descriptors of a process; no import that takes any itself."""

from __future__ import annotations

import os
import resource

# The lowest limit under which both servers start.
LIMIT = 200

taken: list[int] = []


def take(spare: int) -> None:
    """
    Take all descriptors that this process may have but *spare*: a server needs one for its next connection.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, hard))
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(min(spare, len(taken))):
            os.close(taken.pop())


def release(count: int = LIMIT) -> None:
    while taken and count > 0:
        os.close(taken.pop())
        count -= 1
