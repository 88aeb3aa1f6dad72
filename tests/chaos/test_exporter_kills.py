"""The exporter killed: it comes back, and the application notices nothing."""

from __future__ import annotations

import signal

import live
import pytest
import servers
from chaos import targets
from chaos.referee import UNANSWERED, Case
from chaos.scale import instants, scale, some

NAMES = some(["gunicorn sync", "uwsgi lazy-apps", "gunicorn gthread preload", "uwsgi prefork"])


def answers(case: Case) -> bool:
    try:
        return bool(case.page())
    except UNANSWERED:
        return False


def kill_exporter(case: Case, choose) -> None:
    """Kill one of the exporter's processes, and wait until a scrape answers again."""
    with case.unscraped(), case.fault(cuts=False):
        # Two again: nobody restarts a process that is alone, while it becomes the supervisor.
        pids = live.eventually(lambda: servers.exporter_processes(case.server), lambda pids: len(pids) == 2)
        pid = choose(pids)
        case.server.signal_child(pid, signal.SIGKILL)
        live.eventually(live.living, lambda pids: pid not in pids)
        assert live.eventually(lambda: answers(case), bool)


@pytest.mark.parametrize("name", NAMES)
def test_an_exporter_that_is_killed_comes_back_under_traffic(name: str) -> None:
    """SIGKILL of either process of the exporter: no request fails, and no counter goes back."""
    random = instants(f"exporter kills {name}")
    with targets.start(name, workers=2) as server:
        with Case(f"SIGKILL of the exporter, {name}", server) as case:
            for _ in range(scale.exporter_kills):
                case.wait_for(10)
                kill_exporter(case, random.choice)
            case.wait_for(10)


@pytest.mark.parametrize("name", NAMES)
def test_an_exporter_that_is_killed_comes_back_without_traffic(name: str) -> None:
    """A killed exporter comes back even if nobody requests anything."""
    random = instants(f"exporter kills in peace {name}")
    with targets.start(name, workers=2) as server:
        with Case(f"SIGKILL of the exporter in peace, {name}", server, clients=0) as case:
            for _ in range(scale.exporter_kills):
                kill_exporter(case, random.choice)
