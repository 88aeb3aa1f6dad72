"""uWSGI's hook: applications that nobody wraps, and what a master does between the import and the first fork."""

from __future__ import annotations

import contextlib
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
                word
                for pid in servers.exporter_processes(server)
                for word in live.command_line(pid).split()
                if "/wsgi_prom-" in word
            }
            server.signal_child(int(pid_file.read_text()), signal.SIGTERM)
            left = live.eventually(server.processes, lambda pids: not pids)
            gone = live.eventually(lambda: not Path(folder).exists(), bool)
    assert {("/", "200"): 5} == counted
    assert [] == left
    assert gone
