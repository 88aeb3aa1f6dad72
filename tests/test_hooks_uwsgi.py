"""uWSGI's hook: applications that nobody wraps, and what a master does between the import and the first fork."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import live
import pytest
import servers

UNWRAPPED = r"\[WARNING\] wsgi_prom: requests are served, and none is counted: no application is wrapped"


@pytest.mark.parametrize("options", [(), ("--lazy-apps",)], ids=["prefork", "lazy-apps"])
def test_an_application_that_nobody_wraps_is_told_once(options: tuple[str, ...]) -> None:
    """With the hook and module = myapp:app, one warning says how to wrap the application."""
    with live.uwsgi(*options, module="plain:app", app=None, workers=2) as server:
        live.drive(server.url, ["/"] * 5)
        assert server.wait_for_log(UNWRAPPED)
        assert {} == servers.requests_counted(server.samples())


def test_an_application_that_is_wrapped_at_its_first_request_is_no_false_alarm() -> None:
    """An application that is wrapped at its first request, in whichever worker, causes no warning."""
    with live.uwsgi("--threads", "2", module="late:app", app=None, workers=2) as server:
        live.drive(server.url, ["/"] * 5)
        signals = live.eventually(lambda: int(server.get("/signals").body), lambda found: found >= 4)
        log = server.log()
        assert {("/", "200"): 5} == servers.requests_counted(server.samples())
    assert signals >= 4
    assert "no application is wrapped" not in log


@pytest.mark.parametrize("option", ["--daemonize", "--daemonize2"])
def test_a_server_that_becomes_a_daemon_is_counted_and_leaves_nothing(option: str, tmp_path: Path) -> None:
    """A server that daemonizes before or after it loads the application is counted, and leaves nothing at its end."""
    log, pid_file = tmp_path / "log", tmp_path / "pid"
    with contextlib.closing(live.hold_port()) as held:
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        command = ["--http-socket", url.removeprefix("http://"), "--master", "--die-on-term", "--processes", "2",
                   "--shared-import", "wsgi_prom.hooks.uwsgi", "--module", "wsgi_prom.wsgi:application",
                   option, log, "--safe-pidfile2", pid_file]  # fmt: skip
        with live.LiveServer([live.BIN / "uwsgi", *command], env={"WSGI_PROM_APP": "plain:app"}) as server:
            page = live.eventually(
                lambda: live.METRICS_LINE.search(log.read_text() if log.exists() else ""), bool
            )
            assert page
            live.drive(url, ["/"] * 5)
            counted = servers.requests_counted(live.parse_samples(live.request(page[1]).body.decode()))
            (folder,) = {
                Path(word)
                for pid in servers.exporter_processes(server)
                for word in live.command_line(pid).split()
                if word.startswith("/") and "/wsgi_prom-" in word
            }
            server.signal_child(int(pid_file.read_text()), signal.SIGTERM)
            left = live.eventually(server.processes, lambda pids: not pids)
            # And what is beside it, such as the socket of uWSGI's stats server.
            gone = live.eventually(lambda: not list(folder.parent.glob(f"{folder.name}*")), bool)
    assert {("/", "200"): 5} == counted
    assert [] == left
    assert gone


USER = ("--uid", "www-data", "--gid", "www-data")
RELOADS = {
    "workers": ("--touch-workers-reload", ()),
    "chain, lazy-apps": ("--touch-chain-reload", ("--lazy-apps",)),
    "workers, without root": ("--touch-workers-reload", USER),
    "chain, master-as-root": ("--touch-chain-reload", (*USER, "--master-as-root")),
}


def reloadable(option: str, *more: str, **options: object) -> live.LiveServer:
    """Return a uWSGI, not yet started, whose workers are reloaded when the file `reload` in its folder is touched."""
    server = live.uwsgi(option, "reload", *more, **options)
    # uWSGI watches the file from its start on, compares whole seconds, and takes 0 for no file.
    (server.folder / "reload").touch()
    os.utime(server.folder / "reload", (10**9, 10**9))
    return server


@pytest.mark.parametrize("case", RELOADS)
def test_an_exporter_that_was_killed_is_back_when_the_workers_are_reloaded(case: str) -> None:
    """Both of its processes were: one worker that starts launches another, as the workers' user, which ends with the master."""
    option, more = RELOADS[case]
    server = reloadable(option, *more, workers=4)
    if USER[0] in more:
        server.command[:] = live.for_any_user(server.command)
    with server:
        folder = servers.shared_directory(server)
        before = set(server.workers())
        live.drive(server.url, ["/"] * 10)
        servers.kill_exporter(server)
        (server.folder / "reload").touch()
        server.wait_for_log(live.METRICS_LINE, count=2)
        replaced = live.eventually(
            lambda: set(server.workers()), lambda pids: len(pids) == 4 and not pids & before
        )
        counted = servers.requests_counted(server.samples())
        supervisor, _ = servers.supervisor_and_serving(server)
        users = {live.user_id(pid) for pid in [supervisor, *replaced]}
        parent = live.parent(supervisor)
        log = server.log()
    assert {("/", "200"): 10} == counted
    assert parent not in {server.pid, *replaced}
    assert len(users) == 1
    assert 2 == log.count("metrics at")
    assert "has an exporter already" not in log
    assert [] == server.leftovers
    assert not folder.exists()


def test_a_worker_starts_the_exporter_with_the_settings_of_the_server_s_start(tmp_path: Path) -> None:
    """An application that takes the token's file out of its environment does not open the page."""
    (tmp_path / "taking.py").write_text(
        "import os\nfrom plain import app\nos.environ.pop('WSGI_PROM_TOKEN_FILE')\n"
    )
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    more = {"PYTHONPATH": f"{tmp_path}:{live.ROOT}:{live.APPS}", "WSGI_PROM_TOKEN_FILE": str(token)}
    with reloadable("--touch-workers-reload", workers=1, app="taking:app", **more) as server:
        servers.kill_exporter(server)
        (server.folder / "reload").touch()
        server.wait_for_log(live.METRICS_LINE, count=2)
        status = live.request(server.metrics_url).status
    assert 401 == status
    assert [] == server.leftovers


def test_a_uwsgi_with_mules_alone_has_a_page(tmp_path: Path) -> None:
    """What a mule records is shown, and the master sends no signals to a worker that does not exist."""
    script = tmp_path / "mule.py"
    script.write_text(
        "import time\nfrom prometheus_client import Counter\nbeats = Counter('beats', 'Beats.')\n"
        "while True:\n    time.sleep(1)\n    beats.inc()\n"
    )
    command = ["--http-socket", "127.0.0.1:0", "--master", "--die-on-term", "--processes", "0"]
    ready = (r"spawned uWSGI mule \d+", 1)
    with live.LiveServer(
        [live.BIN / "uwsgi", *command, "--shared-import", "wsgi_prom.hooks.uwsgi", f"--mule={script}"],
        ready=ready,
    ) as server:
        # In the first seconds the master would send some.
        live.eventually(lambda: servers.value(server.samples(), "beats_total") or 0, lambda found: found >= 3)
        assert "could not deliver signal" not in server.log()
