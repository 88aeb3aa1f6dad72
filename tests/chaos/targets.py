"""The targets of harm: servers of the chaotic application, and their processes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import live
import servers

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.referee import Case
    from live import LiveServer

# uWSGI logs each request, waits between two workers that die too soon after another, and 10 s for one that is ended
# while it starts.
QUIET: Final = ("--disable-logging", "--forkbomb-delay", "0", "--worker-reload-mercy", "2")


def start(name: str, *args: str, app: str = "chaotic:app", **options: object) -> LiveServer:
    """Return the server called *name*, one of `servers`', with *app*, and little to say."""
    quiet = QUIET if name in servers.UWSGI else ()
    return servers.start(name, *quiet, *args, app=app, **options)


def kill_one(case: Case, choose: Callable[[list[int]], int]) -> int:
    """Kill one of the workers, and return its pid."""
    workers = live.eventually(case.server.workers, bool)
    pid = choose(workers)
    with case.fault():
        case.server.signal_child(pid, signal.SIGKILL)
        # It is still a worker for a moment: not to be chosen twice.
        assert live.eventually(lambda: ended(pid), bool)
    return pid


def ended(pid: int) -> bool:
    return live.stat_fields(pid)[:1] in ([], ["Z"], ["X"])
