"""Workers and the exporter stopped, as by a debugger or a paused container, and continued later."""

from __future__ import annotations

import signal
import time

import pytest
import servers
from chaos import targets
from chaos.referee import Case
from chaos.scale import instants, scale, some


@pytest.mark.parametrize(
    "name", some(["gunicorn gthread", "uwsgi prefork", "gunicorn sync", "uwsgi threads"])
)
def test_a_stopped_worker_keeps_no_scrape_waiting(name: str) -> None:
    """Scrapes answer while a worker is stopped, and its request is counted when it continues."""
    random = instants(f"stops {name}")
    with targets.start(name, workers=3) as server:
        with Case(f"SIGSTOP of workers, {name}", server) as case:
            case.wait_for(20)
            while case.faults < scale.stops:
                pid = random.choice(server.workers())
                with case.fault(cuts=False):
                    server.signal_child(pid, signal.SIGSTOP)
                    case.wait_for_scrapes(3)
                    server.signal_child(pid, signal.SIGCONT)
                time.sleep(random.uniform(0, 0.1))
            case.wait_for(20)


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_stopped_exporter_is_nothing_to_the_application(name: str) -> None:
    """
    While the exporter is stopped, requests are answered and workers die and start; it shows all of it when it
    continues.
    """
    random = instants(f"exporter stops {name}")
    with targets.start(name, workers=3) as server:
        with Case(f"SIGSTOP of the exporter, {name}", server) as case:
            case.wait_for(20)
            for _ in range(scale.stops):
                pids = servers.exporter_processes(server)
                with case.unscraped(), case.fault(cuts=False):
                    for pid in pids:
                        server.signal_child(pid, signal.SIGSTOP)
                    case.wait_for(10)
                    targets.kill_one(case, random.choice)
                    case.wait_for(10)
                    for pid in pids:
                        server.signal_child(pid, signal.SIGCONT)
                assert pids != []
                assert case.scrapes.scrape()
