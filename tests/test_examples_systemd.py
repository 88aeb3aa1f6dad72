"""examples/systemd: the units are valid, and a real systemd runs them, with all that they restrict."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import live
import machines
import pytest
import servers
from users import needs_root

if TYPE_CHECKING:
    from machines import Machine

pytestmark = needs_root

FOLDER = live.ROOT / "examples" / "systemd"
WWW_DATA = 33
# The service, and the socket at which nginx reaches it.
SERVICES = {"shop.service": "/run/shop.sock", "shop-uwsgi.service": "/run/shop/app.sock"}


def machine() -> Machine:
    """Return a machine with the units, and the application and its environment in /srv/shop."""
    units = {
        f"/etc/systemd/system/{path.name}": path.read_text()
        for path in FOLDER.iterdir()
        if path.suffix in {".service", ".socket"}
    }
    application = {
        "/srv/shop/app.py": (live.ROOT / "examples" / "flask" / "app.py").read_text(),
        "/srv/shop/uwsgi.ini": (FOLDER / "uwsgi.ini").read_text(),
    }
    return machines.Machine({**units, **application}, {"/srv/shop/venv": Path(sys.prefix)})


def ask(found: Machine, unit: str, path: str) -> str:
    """Request *path* as nginx would, and return the status."""
    return found.run(
        "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "60",
        "--unix-socket", SERVICES[unit], f"http://shop{path}",
    )  # fmt: skip


def samples(found: Machine) -> live.Samples:
    """Return what a scrape shows."""
    retry = ("--retry", "60", "--retry-delay", "1", "--retry-connrefused")
    return live.parse_samples(found.run("curl", "--silent", *retry, "127.0.0.1:9464/metrics"))


def users(found: Machine) -> dict[tuple[str, str], float]:
    return servers.requests_counted(samples(found))


def busy(found: Machine) -> float | None:
    return servers.value(samples(found), "wsgi_workers", state="busy")


def test_the_units_are_valid() -> None:
    """systemd finds nothing to say about a unit, and counts each service among those with little exposure."""
    with machine() as found:
        units = [f"/etc/systemd/system/{name}" for name in ("shop.socket", *SERVICES)]
        said = found.run("systemd-analyze", "verify", "--man=no", *units, check=False)
        for unit in units[1:]:
            found.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", unit)
    assert "" == said


def test_a_connection_starts_gunicorn() -> None:
    """The first connection to the socket starts gunicorn, which serves and counts it; the queue is that of systemd's socket."""
    unit = "shop.service"
    with machine() as found:
        found.run("systemctl", "start", "shop.socket")
        assert ["inactive"] == found.shows(unit, "ActiveState")
        assert "200" == ask(found, unit, "/users/7")
        assert {("/users/<int:user_id>", "200"): 1} == live.eventually(lambda: users(found), bool)
        page = samples(found)
        assert ["active", "Gunicorn arbiter booted"] == found.shows(unit, "ActiveState", "StatusText")
    assert (0, 128) == (
        servers.value(page, "wsgi_listen_queue", socket="unix:/run/shop.sock"),
        servers.value(page, "wsgi_listen_queue_limit", socket="unix:/run/shop.sock"),
    )


@pytest.mark.parametrize("unit", SERVICES)
def test_all_processes_of_a_service_are_restricted(unit: str) -> None:
    """Master, workers and exporter run as the plain user, without privileges, behind the filter of system calls."""
    with machine() as found:
        found.run("systemctl", "start", unit)
        page = samples(found)
        pids = live.eventually(lambda: found.processes(unit), lambda pids: len(pids) == 4 + 3)
        status = [found.status(pid) for pid in pids]
        mode = found.run("stat", "--format=%U %a", "/run/shop", "/run/shop/metrics")
    assert 4 + 3 == len(pids)
    assert (1 if "uwsgi" in unit else None) == servers.value(page, "uwsgi_up")
    names = ("Uid", "NoNewPrivs", "Seccomp", "CapBnd")
    assert {("\t".join([str(WWW_DATA)] * 4), "1", "2", "0" * 16)} == {
        tuple(item[name] for name in names) for item in status
    }
    assert "www-data 755\nwww-data 700\n" == mode


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_reloaded_and_stopped(unit: str) -> None:
    """A reload brings new workers and loses no count; a stop answers what is in progress, and leaves nothing."""
    with machine() as found, ThreadPoolExecutor(1) as pool:
        found.run("systemctl", "start", unit)
        assert ["200"] * 5 == [ask(found, unit, "/") for _ in range(5)]
        assert {("/", "200"): 5} == live.eventually(lambda: users(found), {("/", "200"): 5.0}.__eq__)
        before, (main,) = set(found.processes(unit)), found.shows(unit, "MainPID")
        workers = live.labelled(samples(found), "wsgi_worker_start_time_seconds")
        # The start of a process is known to the tick.
        time.sleep(0.1)
        found.run("systemctl", "reload", unit)
        # Master and exporter remain.
        left = live.eventually(lambda: before & set(found.processes(unit)), lambda pids: len(pids) == 3)
        assert (3, True) == (len(left), int(main) in left)
        live.eventually(
            lambda: servers.value(samples(found), "wsgi_workers", state="idle"), lambda idle: idle == 4
        )
        assert ["200"] * 5 == [ask(found, unit, "/") for _ in range(5)]
        assert {("/", "200"): 10} == live.eventually(lambda: users(found), {("/", "200"): 10.0}.__eq__)
        assert not set(workers.items()) & set(
            live.labelled(samples(found), "wsgi_worker_start_time_seconds").items()
        )
        slow = pool.submit(ask, found, unit, "/slow?seconds=3")
        live.eventually(lambda: busy(found), lambda number: number == 1)
        found.run("systemctl", "stop", unit)
        assert "200" == slow.result()
        assert ["inactive", "success"] == found.shows(unit, "ActiveState", "Result")
        assert ([], "") == (found.processes(unit), found.run("sh", "-c", "ls -d /run/shop 2>/dev/null || :"))


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_that_is_killed_is_started_again(unit: str) -> None:
    """After SIGKILL of the master systemd ends all that is left and starts the service anew, with one exporter."""
    with machine() as found:
        found.run("systemctl", "start", unit)
        assert "200" == ask(found, unit, "/")
        before, (main,) = set(found.processes(unit)), found.shows(unit, "MainPID")
        found.run("kill", "-KILL", main)
        live.eventually(lambda: found.shows(unit, "NRestarts", "ActiveState"), ["1", "active"].__eq__)
        assert ["1", "active"] == found.shows(unit, "NRestarts", "ActiveState")
        assert "200" == ask(found, unit, "/users/7")
        assert {("/users/<int:user_id>", "200"): 1} == live.eventually(lambda: users(found), bool)
        assert not before & set(found.processes(unit))
