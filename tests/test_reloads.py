"""How often a server was reloaded, and when."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import live
import pytest
import servers
from test_lifecycle import RELOADS, reloadable

from wsgi_prom.hooks import reloads

COUNT = "wsgi_reloads_total"
TIME = "wsgi_last_reload_timestamp_seconds"


def told(server: live.LiveServer) -> tuple[float | None, float | None]:
    samples = server.samples()
    return servers.value(samples, COUNT), servers.value(samples, TIME)


def after(server: live.LiveServer, count: int) -> tuple[float | None, float | None]:
    """Return what the server tells once it has counted *count* reloads."""
    return live.eventually(lambda: told(server), lambda found: found[0] == count)


def answering(server: live.LiveServer) -> set[int]:
    """Return the processes that answer requests."""
    return {int(server.get("/pid").body) for _ in range(20)}


# Beside those of test_lifecycle.py, what else reloads uWSGI's master.
WAYS = {**RELOADS, "uwsgi touch-reload": ("uwsgi prefork", ("--touch-reload", "reload"), None)}


@pytest.mark.parametrize("case", WAYS)
def test_each_reload_counts_once(case: str) -> None:
    """Of two reloads each counts once, however many workers start, and the time of the last one is told."""
    name, options, reload = WAYS[case]
    with contextlib.closing(live.hold_port()) as held, reloadable(name, options, held) as server:
        first = after(server, 0)
        scrapes = servers.Scraper(server)
        times = []
        for number in (1, 2):
            workers = set(server.workers())
            began = time.time()
            if options:
                # uWSGI compares whole seconds.
                os.utime(server.folder / options[1], (10**9 + number, 10**9 + number))
            else:
                reload(server)
            times.append((began, after(server, number)[1], time.time()))
            scrapes.scrape()
            # One of uWSGI's that has not begun to serve takes SIGHUP as the master does, and hands it on to the others.
            live.eventually(
                lambda: answering(server), lambda pids, workers=workers: len(pids) == 2 and not pids & workers
            )
        last = told(server)
    assert (0, None) == first
    # uWSGI's own go with the worker that they are of.
    assert [] == [problem for problem in scrapes.problems if not problem.startswith("uwsgi_")]
    assert times == sorted(times)
    assert all(began <= moment <= seen for began, moment, seen in times)
    assert (2, times[1][1]) == last


def test_an_application_that_reloads_its_server_counts() -> None:
    """uwsgi.reload() is a reload like any other."""
    with contextlib.closing(live.hold_port()) as held:
        port = held.getsockname()[1]
        with servers.start("uwsgi prefork", app="reloading:app", workers=1, port=port) as server:
            after(server, 0)
            server.get("/reload")
            found = after(server, 1)
    assert found[0] == 1


def test_an_arbiter_that_takes_over_counts_once_and_one_that_cannot_does_not(tmp_path: Path) -> None:
    """USR2 counts when the new arbiter's application is loaded: not if its import fails, after which the old one goes on."""
    broken = tmp_path / "broken"
    code = f"import os, plain\nif os.path.exists({str(broken)!r}): raise RuntimeError\napp = plain.app\n"
    (tmp_path / "deployed.py").write_text(code)
    path = f"{tmp_path}:{live.APPS}"
    with servers.start("gunicorn sync", app="deployed:app", workers=2, PYTHONPATH=path) as server:
        after(server, 0)
        broken.touch()
        server.kill(signal.SIGUSR2)
        failing = server.wait_for_log(r"\[(\d+)\] \[ERROR\] Worker .* exited with code 3")[1]
        # As long as the old arbiter has not reaped it, it takes no other USR2.
        live.eventually(Path("/proc", failing).exists, lambda there: not there)
        failed = told(server)
        broken.unlink()
        server.kill(signal.SIGUSR2)
        found = after(server, 1)
        server.kill(signal.SIGTERM)
        server.wait()
        last = told(server)
        new = re.findall(r"Listening at: .* \((\d+)\)", server.log())[-1]
        os.kill(int(new), signal.SIGTERM)
        live.eventually(server.processes, lambda pids: not pids)
    assert (0, None) == failed
    assert found == last


def test_a_worker_that_is_replaced_is_no_reload() -> None:
    """A worker that is killed, and the next one, count as no reload."""
    with servers.start("gunicorn sync", workers=1) as server:
        after(server, 0)
        (killed,) = server.workers()
        server.signal_child(killed, 9)
        live.eventually(lambda: servers.value(server.samples(), "wsgi_worker_starts_total"), lambda n: n == 2)
        found = told(server)
    assert (0, None) == found


def test_reloads_that_nobody_counts_stop_no_server() -> None:
    """A server whose workers never start may be told to reload for ever: it neither waits nor fails."""
    for _ in range(20_000):
        reloads.begin()
