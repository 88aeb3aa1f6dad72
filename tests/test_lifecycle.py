"""Workers are killed, servers reloaded, replaced, stopped and started: counts stay, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import TYPE_CHECKING

import live
import processes
import pytest
import servers
from servers import value

from wsgi_prom.store import directory

if TYPE_CHECKING:
    import socket
    from pathlib import Path
    from typing import Self


def in_progress(server: live.LiveServer) -> float | None:
    return value(server.samples(), "http_requests_in_progress")


def busy_worker(server: live.LiveServer, pool: ThreadPoolExecutor, workers: int) -> int:
    """Occupy one worker with a long request, and return the pid of that worker."""
    pool.submit(attempt, server, "/sleep?s=60")
    assert live.eventually(lambda: in_progress(server), lambda found: found == 1) == 1
    idle: set[int] = set()

    def ask() -> int:
        idle.add(int(server.get("/pid").body))
        return len(idle)

    assert live.eventually(ask, lambda found: found == workers - 1) == workers - 1
    (pid,) = set(server.workers()) - idle
    return pid


def attempt(server: live.LiveServer, path: str) -> None:
    with contextlib.suppress(OSError, HTTPException):
        server.get(path)


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_worker_killed_in_mid_request_keeps_its_counts_and_is_not_in_progress(name: str) -> None:
    """
    After SIGKILL in the middle of a request, requests in progress are right at the next scrape, and completed ones stay
    counted.
    """
    with servers.start(name, workers=3) as server, ThreadPoolExecutor(1) as pool:
        live.drive(server.url, ["/"] * 50)
        pid = busy_worker(server, pool, workers=3)
        before = server.samples()
        server.signal_child(pid, signal.SIGKILL)
        live.eventually(live.living, lambda pids: pid not in pids)
        after = server.samples()
        live.drive(server.url, ["/"] * 50)
        last = server.samples()

    assert value(before, "http_requests_in_progress") == 1
    assert value(after, "http_requests_in_progress") == 0
    assert [] == servers.gone_back(before, after) + servers.gone_back(after, last)
    assert servers.requests_counted(last)["/", "200"] == 100
    assert ("/sleep", "200") not in servers.requests_counted(last)


class Traffic:
    """Requests by several clients during a `with` block, each counted by its outcome."""

    def __init__(self, server: live.LiveServer, url: str) -> None:
        self._server = server
        self._url = url
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.answered = 0
        self.failed = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until *count* more requests were answered."""
        wanted = self.answered + count
        assert live.eventually(lambda: self.answered, lambda found: found >= wanted) >= wanted

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                status = live.request(self._url + "/").status
            except (OSError, HTTPException):
                status = 0
            with self._lock:
                self.answered += status == 200
                self.failed += status != 200


def reload_uwsgi_workers(server: live.LiveServer) -> None:
    (server.folder / "reload").touch()


def hang_up(server: live.LiveServer) -> None:
    server.kill(signal.SIGHUP)


# Those that tests/chaos/test_reloads.py has none of.
RELOADS = {
    "gunicorn preload HUP": ("gunicorn sync preload", (), hang_up),
    "uwsgi lazy-apps SIGHUP": ("uwsgi lazy-apps", (), hang_up),
    "uwsgi workers only": ("uwsgi prefork", ("--touch-workers-reload", "reload"), reload_uwsgi_workers),
}


@pytest.mark.parametrize("case", RELOADS)
def test_a_reload_under_traffic_loses_nothing(case: str) -> None:
    """During a reload no counter goes back, one exporter answers at the same address, and nothing stays in progress."""
    name, options, reload = RELOADS[case]
    with contextlib.closing(live.hold_port()) as held, reloadable(name, options, held) as server:
        url, metrics_url, before = server.url, server.metrics_url, set(server.workers())
        scraper = servers.Scraper(server)
        exporter = servers.supervisor_and_serving(server)

        def new_workers() -> bool:
            scraper.scrape()
            return len(set(server.workers()) - before) == 2 and not set(server.workers()) & before

        with Traffic(server, url) as traffic:
            traffic.wait_for(20)
            reload(server)
            replaced = live.eventually(new_workers, bool)
            traffic.wait_for(20)
            scraper.scrape()
            exporter_after = servers.supervisor_and_serving(server)
        last = live.eventually(server.samples, lambda found: value(found, "http_requests_in_progress") == 0)

    assert replaced
    assert [] == scraper.problems
    assert value(last, "http_requests_in_progress") == 0
    assert exporter == exporter_after
    assert metrics_url == server.metrics_url
    counted = servers.requests_counted(last)["/", "200"]
    assert traffic.answered <= counted <= traffic.answered + traffic.failed


def reloadable(name: str, options: tuple[str, ...], held: socket.socket) -> live.LiveServer:
    port = {"port": held.getsockname()[1]} if name in servers.UWSGI else {}
    server = servers.start(name, *options, workers=2, **port)
    for watched in options[1:]:
        # uWSGI watches the file from its start on, compares whole seconds, and takes 0 for no file.
        (server.folder / watched).touch()
        os.utime(server.folder / watched, (10**9, 10**9))
    return server


def test_usr2_under_traffic_hands_over_counts_and_exporter() -> None:
    """
    Two arbiters serve side by side, then the new one alone, with one set of counters, one exporter and one address.
    """
    with servers.start("gunicorn gthread preload", workers=2) as server:
        url = server.url
        scraper = servers.Scraper(server)
        folder = servers.shared_directory(server)
        exporter = servers.supervisor_and_serving(server)
        with Traffic(server, url) as traffic:
            traffic.wait_for(20)
            server.kill(signal.SIGUSR2)
            server.wait_for_log(r"Booting worker with pid", count=4)
            scraper.scrape()
            (new,) = {int(pid) for pid in re.findall(r"Listening at: .* \((\d+)\)", server.log())} - {
                server.pid
            }
            server.kill(signal.SIGTERM)
            assert server.wait() == 0
            for _ in range(5):
                traffic.wait_for(10)
                scraper.scrape()
        last = live.eventually(server.samples, lambda found: value(found, "http_requests_in_progress") == 0)
        exporter_after = servers.supervisor_and_serving(server)
        os.kill(new, signal.SIGTERM)
        left = live.eventually(server.processes, lambda pids: not pids)

    assert [] == scraper.problems
    assert exporter == exporter_after
    assert value(last, "http_requests_in_progress") == 0
    counted = servers.requests_counted(last)["/", "200"]
    assert traffic.answered <= counted <= traffic.answered + traffic.failed
    assert [] == left
    assert not folder.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", servers.BOTH)
def test_a_server_that_ends_leaves_no_exporter_and_no_directory(name: str, end: signal.Signals) -> None:
    """When a server stops, or its master is killed, its exporter ends and its directory is removed."""
    # gunicorn's workers look for their master once in half the timeout.
    options = ("--timeout", "2") if name.startswith("gunicorn") else ()
    with servers.start(name, *options, workers=2) as server:
        live.drive(server.url, ["/"] * 20)
        folder = servers.shared_directory(server)
        metrics_url = server.metrics_url
        counted = servers.requests_counted(server.samples())
        server.kill(end)
        exporters = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        gone = live.eventually(folder.exists, lambda found: not found)
        with pytest.raises(OSError, match="refused"):
            live.request(metrics_url)

    assert {("/", "200"): 20} == counted
    assert [] == exporters
    assert gone is False


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_configured_directory_starts_at_zero(name: str, tmp_path: Path) -> None:
    """At a start our files in PROMETHEUS_MULTIPROC_DIR are cleared, and foreign files stay."""
    tmp_path.chmod(0o700)
    (tmp_path / "counter_12345.db").write_bytes(b"left by the client library")
    (tmp_path / "notes.txt").write_text("not ours")
    counted = []
    for _ in range(2):
        with servers.start(name, workers=2, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as server:
            live.drive(server.url, ["/"] * 20)
            counted.append(servers.requests_counted(server.samples()))
            unreadable = value(server.samples(), "wsgi_prom_unreadable_files")
    assert [{("/", "200"): 20}] * 2 == counted
    assert unreadable == 0
    assert (tmp_path / "notes.txt").read_text() == "not ours"


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_scrape_is_answered_while_all_workers_hang(name: str) -> None:
    """The exporter answers while all workers hang, since it is a process of its own."""
    with servers.start(name, workers=2) as server, ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(attempt, server, "/sleep?s=60")
        busy = live.eventually(lambda: in_progress(server), lambda found: found == 2)
        healthy = live.request(server.metrics_url.replace("/metrics", "/-/healthy")).status
        ready = live.request(server.metrics_url.replace("/metrics", "/-/ready")).status
        for pid in server.workers():
            server.signal_child(pid, signal.SIGKILL)
    assert busy == 2
    assert healthy == ready == 200


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_server_that_goes_on_in_a_directory_that_was_half_removed_counts(name: str, tmp_path: Path) -> None:
    """The second server of an upgrade counts in a directory that the first one had half removed."""
    path = tmp_path / directory.name_temporary().name
    processes.in_child(lambda: directory.prepare(path).mark_discarded())
    with servers.start(name, workers=2, PROMETHEUS_MULTIPROC_DIR=str(path)) as server:
        live.drive(server.url, ["/"] * 10)
        counted = servers.requests_counted(server.samples())
    assert {("/", "200"): 10} == counted
