"""What an arbiter of gunicorn counts as the end of a worker, and that it counts each one once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live
import servers
from test_workers import by_label, exits, recycle, states

from wsgi_prom.store import directory, directory_files, exit_counts

if TYPE_CHECKING:
    from collections.abc import Callable

ON_EXIT = """
from wsgi_prom.hooks import gunicorn as metrics
from wsgi_prom.hooks.gunicorn import *
def on_exit(server): metrics.on_exit(server); server.reap_workers()
"""


# Imported again while `broken` is there, it fails once it is told to.
DEPLOYED = """
import os, time, plain
app = plain.app
if os.path.exists({broken!r}):
    while not os.path.exists({failing!r}):
        time.sleep(0.01)
    raise RuntimeError
"""


def test_workers_that_cannot_boot_count_once_each(tmp_path: Path) -> None:
    """Four workers of a new arbiter fail at once: four boot errors on the old one's page, though it halts at the first and reaps again."""
    broken, failing = tmp_path / "broken", tmp_path / "failing"
    (tmp_path / "deployed.py").write_text(DEPLOYED.format(broken=str(broken), failing=str(failing)))
    path = f"{tmp_path}:{live.APPS}"
    with servers.start("gunicorn sync", app="deployed:app", workers=4, PYTHONPATH=path) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 4)
        old = set(server.workers())
        broken.touch()
        server.kill(signal.SIGUSR2)
        new = live.eventually(lambda: set(server.workers()) - old, bool).pop()
        workers = live.eventually(lambda: server.workers(new), lambda pids: len(pids) == 4)
        server.signal_child(new, signal.SIGSTOP)
        failing.touch()
        live.eventually(lambda: [pid for pid in workers if not is_zombie(pid)], lambda pids: not pids)
        server.signal_child(new, signal.SIGCONT)
        live.eventually(Path(f"/proc/{new}").exists, lambda there: not there)
        assert {"boot_error": 4} == exits(server)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_worker_that_has_rotated_its_log_ends_as_any_other() -> None:
    """USR1 goes to the workers too, and ends none: one that ends later, after its most requests, does so for that reason."""
    with servers.start("gunicorn sync", "--max-requests", "10", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        server.kill(signal.SIGUSR1)
        server.wait_for_log("Handling signal: usr1")
        recycle(server)
        assert {"max_requests": 1} == live.eventually(lambda: exits(server), bool)


def test_a_signal_without_a_name_is_a_reason() -> None:
    """Python names no realtime signal but the first and the last one."""
    with servers.start("gunicorn sync", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        os.kill(server.workers()[0], signal.SIGRTMIN + 6)
        assert {f"signal_{signal.SIGRTMIN + 6}": 1} == live.eventually(lambda: exits(server), bool)


def test_the_usual_reasons_are_there_from_the_start() -> None:
    """Whatever a server that is in order counts begins with 0, of which a first increase is seen."""
    with servers.start("gunicorn sync", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        found = by_label(server.samples(), "wsgi_worker_exits_total")
    usual = {"timeout", "max_requests", "reload", "boot_error", "cheaped", "stop", "exit_0"}
    assert dict.fromkeys(usual | {"SIGKILL", "SIGSEGV", "unknown"}, 0) == found


def test_a_hook_that_is_called_twice_adds_no_count_twice(
    tmp_path: Path, in_child: Callable[..., Any]
) -> None:
    """An arbiter goes on with the counts of an ended one, once, although a configuration's own hook calls ours."""
    path = tmp_path / "shared"
    directory.prepare(path)

    def run() -> dict[str, int]:
        from wsgi_prom.hooks import gunicorn_exits

        with directory_files.opened(path) as folder:
            exit_counts.write(folder, 1, {"reload": 2})
        for _ in range(2):
            gunicorn_exits.keep(path, 1, os.geteuid())
        # Written again.
        (path / exit_counts.name(1)).unlink()
        gunicorn_exits.keep(path, 1, os.geteuid())
        with directory_files.opened(path) as folder:
            return exit_counts.read(folder, 1)

    assert in_child(run)["reload"] == 2


def test_an_arbiter_that_has_ended_warns_of_no_counts(tmp_path: Path) -> None:
    """Its directory is gone: a worker that is reaped after that, as older gunicorns do at any time, is no fault."""
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(ON_EXIT)
    with live.gunicorn(config=str(configuration), workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        folder = servers.shared_directory(server)
        server.kill(signal.SIGTERM)
        server.wait()
        log = server.log()
    assert not folder.exists()
    assert "exits of workers" not in log
