"""The shared directory in the environment: a server's own processes know it, programs that it runs do not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import live
import pytest
import servers

from wsgi_prom.store import directory, environment, locks, shared_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = environment.VARIABLE


@pytest.fixture(
    scope="module", params=["gunicorn sync", "gunicorn sync preload", "uwsgi prefork", "uwsgi lazy-apps"]
)
def server(request: pytest.FixtureRequest) -> Iterator[live.LiveServer]:
    with servers.start(request.param, app="commands:app", workers=1) as started:
        yield started


def environment_of(server: live.LiveServer, path: str = "/environment") -> dict[str, str]:
    found: dict[str, str] = json.loads(server.get(path).body)
    return found


def counted(server: live.LiveServer) -> float | None:
    """Return the number of requests on the page."""
    return servers.value(
        server.samples(), "http_request_duration_seconds_count", method="GET", route="unmatched"
    )


def test_programs_that_a_server_runs_write_no_files(server: live.LiveServer) -> None:
    """A program that a server runs keeps its metrics to itself, as without the hook."""
    path = servers.shared_directory(server)
    assert b"0" == server.get("/job").body
    assert VARIABLE not in environment_of(server)
    assert [] == list(path.glob("*.db"))
    assert b"jobs_total" not in server.scrape().encode()


def test_code_of_the_server_finds_the_directory(server: live.LiveServer) -> None:
    """
    Code of the server's own processes finds the directory in os.environ, even at the import of a preloaded application.
    """
    assert b"True True" == server.get("/own").body


def test_a_server_below_another_has_a_directory_of_its_own(server: live.LiveServer) -> None:
    """A server that another one starts has its own directory, even if it gets a copy of os.environ."""
    outer = servers.shared_directory(server)
    inherited = environment_of(server, "/copy/environment")
    assert str(outer) == inherited[VARIABLE]
    names = {name: value for name, value in inherited.items() if name == VARIABLE or str(outer) in value}
    with live.gunicorn("commands:app", workers=1, **names) as inner:
        assert servers.shared_directory(inner) != outer
        server.get("/own")
        inner.get("/own")
        inner.get("/own")
        assert 2 == counted(inner)


def test_a_users_own_variable_stays(tmp_path: Path) -> None:
    """PROMETHEUS_MULTIPROC_DIR that the user set is inherited unchanged by whatever the server runs."""
    path = tmp_path / "metrics"
    with live.gunicorn("commands:app", "--preload", workers=1, **{VARIABLE: str(path)}) as started:
        assert str(path) == environment_of(started)[VARIABLE]
        assert b"True True" == started.get("/own").body


@pytest.mark.parametrize("name", ["gunicorn sync", "gunicorn sync preload"])
def test_the_next_arbiter_goes_on_in_the_directory_after_a_hup(name: str) -> None:
    """
    After HUP and USR2 the new arbiter uses the directory, though gunicorn takes os.environ at the HUP for its
    environment.
    """
    with servers.start(name, app="commands:app", workers=1) as server:
        path = servers.shared_directory(server)
        server.get("/own")
        server.kill(signal.SIGHUP)
        server.wait_for_log(r"Booting worker with pid", count=2)
        server.kill(signal.SIGUSR2)
        server.wait_for_log(r"Booting worker with pid", count=3)
        server.kill(signal.SIGTERM)
        server.wait()
        assert VARIABLE not in environment_of(server)
        assert path == servers.shared_directory(server)
        assert 2 == counted(server)
        (new,) = {int(pid) for pid in re.findall(r"Listening at: .* \((\d+)\)", server.log())} - {server.pid}
        server.signal_child(new, signal.SIGTERM)


def test_a_directory_is_shared_for_as_long_as_its_server_lives(shared: Path) -> None:
    """A process that outlives its server does not make the server's directory again."""
    lock_file = directory.prepare(shared)
    assert lock_file.acquire(locks.SERVERS[0])
    environment.announce(shared)
    script = "from wsgi_prom.store.shared_directory import shared_directory; print(shared_directory())"
    found = [run(script)]
    lock_file.release(locks.SERVERS[0])
    found.append(run(script))
    assert [str(shared), "None"] == found


def test_a_copied_environment_is_nobodys_choice(shared: Path) -> None:
    """A variable that a server set is not the user's choice; one with another directory is, and wins."""
    environment.announce(shared)
    os.environ[VARIABLE] = str(shared)
    assert environment.configured() is None
    assert shared == shared_directory.shared_directory()
    os.environ[VARIABLE] = str(shared.parent / "another")
    assert shared.parent / "another" == environment.configured() == shared_directory.shared_directory()
    assert environment.announced() is None


def test_a_directory_below_the_users_is_found() -> None:
    """Processes of a server find the directory that it made below the one that the user named."""
    os.environ[VARIABLE] = "/run/metrics"
    environment.announce(Path("/run/metrics/own"))
    assert Path("/run/metrics/own") == shared_directory.shared_directory()


@pytest.mark.parametrize("text", ["", "x /a", "1", "1 a", " /a", "-1 /a"])
def test_what_nobody_of_ours_wrote_is_ignored(text: str) -> None:
    """Anything but a pid and an absolute path counts as unset."""
    os.environ["_WSGI_PROM_SERVER"] = text
    assert environment.announced() is None


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()
