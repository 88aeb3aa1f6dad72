"""
No file descriptors left (RLIMIT_NOFILE): in workers, from their beginning or later, and in the exporter.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import live
import pytest
import servers
import wire
from chaos.recovery import ask_all, missing, settled, shown, traffic
from chaos.referee import KINDS, OF_A_PROCESS, Case, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
EXHAUST = Kind("/exhaust", "/exhaust", 200, b"exhausted")
RELEASE = Kind("/release", "/release", 200, b"released")
SWELL = Kind("/swell", "/swell", 200, b"swollen")


HOOK = {"gunicorn sync": {"config": "python:exhausted"}, "uwsgi prefork": {"hook": "exhausted"}}


@pytest.mark.parametrize("name", servers.BOTH)
def test_workers_without_descriptors_from_the_beginning_are_counted_later(name: str) -> None:
    """Workers without descriptors serve, log why they are not counted, and lose nothing once they have some."""
    with servers.start(name, app="harmed:app", workers=WORKERS, **HOOK[name]) as server:
        with Case(f"no descriptors from the beginning, {name}", server, clients=0) as case:
            before = server.workers()
            with case.fault(cuts=False), traffic(case):
                case.wait_for(50)
            said = "Too many open files" in server.log()
            assert 0 < missing(case)
            ask_all(case, WORKERS, RELEASE)
            assert 0 == settled(case)
            assert before == server.workers()
    assert said


@pytest.mark.parametrize("name", servers.BOTH)
def test_workers_whose_application_takes_all_descriptors_lose_nothing(name: str) -> None:
    """
    New series that need a larger file are on the page while no descriptors are left, since a worker keeps its files
    open.
    """
    with servers.start(name, app="harmed:app", workers=WORKERS) as server:
        with Case(f"no descriptors later, {name}", server, clients=0) as case:
            before = server.workers()
            case.send_all(KINDS[:2] * 8)
            with case.fault(cuts=False):
                ask_all(case, WORKERS, EXHAUST)
            with traffic(case):
                ask_all(case, WORKERS, SWELL)
                case.wait_for(50)
            meanwhile = live.labelled(case.page(), "app_swollen_total").values()
            ask_all(case, WORKERS, RELEASE)
            assert 0 == settled(case)
            assert before == server.workers()
        swollen = live.labelled(case.scrapes.last, "app_swollen_total").values()
    assert [(600, {float(WORKERS)})] * 2 == [(len(found), set(found)) for found in (meanwhile, swollen)]


@pytest.mark.parametrize("name", servers.BOTH)
def test_an_exporter_without_descriptors_shows_what_it_knew(name: str) -> None:
    """While an exporter lacks descriptors for files, or for a scrape, no counter goes back, and it recovers."""
    with servers.start(name, app="harmed:app", workers=WORKERS) as server:
        with Case(f"no descriptors in the exporter, {name}", server, clients=0) as case:
            case.send_all(KINDS * 8)
            supervisor, serving = servers.supervisor_and_serving(server)
            url = server.metrics_url
            assert 0 == missing(case)
            with case.unscraped(), case.fault(cuts=False):
                with held(url, serving, spare=1):
                    page = live.parse_samples(live.request(url).body.decode())
                case.send_all(KINDS * 8)
                with held(url, serving, spare=0):
                    case.send_all(KINDS * 8)
                before, case.scrapes.last = case.scrapes.last, page
            assert [] == [
                line for line in servers.gone_back(before, page) if not line.startswith(OF_A_PROCESS)
            ]
            assert 0 == live.eventually(lambda: missing(case), lambda found: found == 0)
            assert (1, 0) == (
                shown(case, "wsgi_prom_directory_readable"),
                shown(case, "wsgi_prom_unreadable_files"),
            )
            assert (supervisor, serving) == servers.supervisor_and_serving(server)


@contextlib.contextmanager
def held(url: str, pid: int, spare: int) -> Iterator[None]:
    """
    Hold connections to *url* until its process *pid* has *spare* descriptors left; give them back at the end.
    """
    parts = urlsplit(url)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def used() -> list[int]:
        return sorted(map(int, os.listdir(f"/proc/{pid}/fd")))

    # A client whose answer is complete goes on; the process closes its own end later, and would be counted here.
    assert set() == live.eventually(lambda: wire.connections(pid, parts.port), lambda found: not found)
    # The least of some: now and then the process reads files.
    fewest = min(len(used()) for _ in range(20) if not time.sleep(0.005))
    # Above all that it has, so that each number below can be told to be free or not.
    limit = max(used()) + 5
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, limits)
        for count in range(fewest + 1, limit - spare + 1):
            stack.enter_context(socket.create_connection((parts.hostname, parts.port)))
            assert count == live.eventually(lambda: len(used()), lambda found, count=count: found == count)
        yield
        assert Path(f"/proc/{pid}").exists()
