"""Unusual environments: users without a passwd entry, any umask, and file systems that can hardly be written to."""

from __future__ import annotations

import contextlib
import re
import stat
import sys
from typing import TYPE_CHECKING, Final

import exporters
import live
import pytest
import servers
from servers import value

from wsgi_prom.exporter.process.launch import exporter_environment, launch
from wsgi_prom.exporter.target import Target
from wsgi_prom.setting_values import Address
from wsgi_prom.store import directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNKNOWN: Final = 54321
NO_PASSWD_ENTRY: Final = ["setpriv", "--reuid", str(UNKNOWN), "--regid", str(UNKNOWN), "--clear-groups"]

# Seen by nobody outside the mount namespace: every file system read-only, and a fresh one at $1, if it is not empty.
READ_ONLY: Final = """
writable=$1; shift
while read -r _ place _; do
    mount -o remount,bind,ro "$place" 2>/dev/null || true
done < /proc/self/mounts
if [ -n "$writable" ]; then mount -t tmpfs -o mode=1777 writable "$writable"; fi
exec "$@"
"""

SERVERS: Final = ["gunicorn", "uwsgi"]


def start(name: str, wrapper: list[str], *args: str, **env: str | None) -> live.LiveServer:
    """Return the server called *name*, as *wrapper* runs it: a command that ends in the server's own."""
    if name == "gunicorn":
        # Its control socket would be in the home directory; where there is none, it serves without.
        server = live.gunicorn("metered:app", *args, workers=2, XDG_RUNTIME_DIR=None, HOME=None, **env)
    else:
        server = live.uwsgi(app="metered:app", workers=2, HOME=None, **env)
    server.command = live.for_any_user([*wrapper, *server.command])
    return server


def assert_counted(server: live.LiveServer) -> None:
    assert [] == live.drive(server.url, ["/", "/record?kind=a&v=3"] * 20).failed
    samples = server.samples()
    assert {("/", "200"): 20, ("/record", "200"): 20} == servers.requests_counted(samples)
    assert value(samples, "app_orders_total", kind="a") == 60
    assert value(samples, "wsgi_prom_unreadable_files") == 0


@pytest.mark.parametrize(("name", "umask"), [("gunicorn", "000"), ("uwsgi", "077")])
def test_an_unknown_user_without_a_home(name: str, umask: str) -> None:
    """
    A user without a passwd entry and without HOME is served and counted with any umask, in files of that user alone.
    """
    wrapper = [*NO_PASSWD_ENTRY, "sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    with start(name, wrapper) as server:
        assert_counted(server)
        path = servers.shared_directory(server)
        assert (0o700, UNKNOWN) == (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid)
        files = servers.files(path).values()
        assert {(0o600, UNKNOWN)} == {(stat.S_IMODE(found.st_mode), found.st_uid) for found in files}
    assert not path.exists()


# Each two of server, place and user together.
@pytest.mark.parametrize(
    ("name", "place", "user"),
    [
        ("gunicorn", "/dev/shm", []),
        ("gunicorn", "TMPDIR", NO_PASSWD_ENTRY),
        ("uwsgi", "/dev/shm", NO_PASSWD_ENTRY),
        ("uwsgi", "TMPDIR", []),
    ],
    ids=["gunicorn, root", "gunicorn in TMPDIR", "uwsgi", "uwsgi, root in TMPDIR"],
)
def test_a_read_only_system_with_one_place_to_write_to(
    name: str, place: str, user: list[str], tmp_path: Path
) -> None:
    """/dev/shm alone, or TMPDIR alone, is enough to count everything."""
    writable = str(tmp_path) if place == "TMPDIR" else place
    for folder in [tmp_path, *list(tmp_path.parents)[:-2]]:
        folder.chmod(folder.stat().st_mode | 0o011)
    # gunicorn has files of its own to make, for its workers' heartbeats.
    args = ["--worker-tmp-dir", writable] if name == "gunicorn" else []
    wrapper = ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", writable, *user]
    with start(name, wrapper, *args, TMPDIR=writable if place == "TMPDIR" else None) as server:
        assert_counted(server)
        assert writable == str(servers.shared_directory(server).parent)


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_that_can_be_written_to(name: str, tmp_path: Path) -> None:
    """With nowhere to write, the application serves, and the log says once why there are no metrics."""
    # gunicorn itself does not start without a place for its workers' heartbeats; nobody else knows of this one.
    writable = str(tmp_path) if name == "gunicorn" else ""
    for folder in [tmp_path, *list(tmp_path.parents)[:-2]]:
        folder.chmod(folder.stat().st_mode | 0o011)
    args = ["--worker-tmp-dir", writable] if writable else []
    wrapper = ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", writable, *NO_PASSWD_ENTRY]
    with start(name, wrapper, *args, TMPDIR=None) as server:
        driven = live.drive(server.url, ["/", "/record?kind=a&v=3"] * 20)
        assert ([], 40) == (driven.failed, sum(driven.answered.values()))
        log = server.log()
    assert 1 == log.count("no metrics: the shared directory ")
    assert "Read-only file system" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    "interpreter",
    [["-OO", "-W", "error"], ["-I", "-S"]],
    ids=["no docstrings, warnings are errors", "isolated, without site"],
)
def test_gunicorn_under_any_setting_of_the_interpreter(interpreter: list[str]) -> None:
    """Application, exporter and the page in the application work with each option of the interpreter."""
    # Where the interpreter reads neither PYTHONPATH nor .pth files, they are given in the program.
    program = (
        f"import sys; sys.path[:0] = {[str(live.APPS), *(path for path in sys.path if path)]!r}; "
        "from gunicorn.app.wsgiapp import run; run()"
    )
    server = live.gunicorn(
        "plain:app", workers=1, WSGI_PROM_METRICS_PATH="/metrics",
        PYTHONOPTIMIZE="2" if "-OO" in interpreter else None, PYTHONWARNINGS="error" if "-W" in interpreter else None,
    )  # fmt: skip
    server.command = [sys.executable, *interpreter, "-c", program, *server.command[1:]]
    with server:
        live.drive(server.url, ["/"] * 5)
        assert {("/", "200"): 5} == servers.requests_counted(server.samples())
        assert b"http_requests_total" in server.get("/metrics").body


def test_uwsgi_with_warnings_as_errors_and_without_docstrings() -> None:
    """uWSGI works with its own options and the environment's for warnings as errors and no docstrings."""
    with live.uwsgi("--optimize", "2", workers=1, PYTHONOPTIMIZE="2", PYTHONWARNINGS="error",
                    WSGI_PROM_METRICS_PATH="/metrics") as server:  # fmt: skip
        live.drive(server.url, ["/"] * 5)
        assert {("/", "200"): 5} == servers.requests_counted(server.samples())
        assert b"http_requests_total" in server.get("/metrics").body


@pytest.mark.parametrize("name", SERVERS)
def test_closed_standard_streams(name: str) -> None:
    """A server that is started without stdin, stdout and stderr writes its log to no file that has their numbers."""
    with contextlib.closing(live.hold_port()) as held, contextlib.closing(live.hold_port()) as metrics:
        number, metrics_number = (holder.getsockname()[1] for holder in (held, metrics))
        command: list[str | Path] = {
            "gunicorn": [live.BIN / "gunicorn", "-b", f"127.0.0.1:{number}", "-c", "python:wsgi_prom.hooks.gunicorn", "plain:app"],
            "uwsgi": [live.BIN / "uwsgi", "--http-socket", f"127.0.0.1:{number}", "--master", "--die-on-term", "--shared-import",
                      "wsgi_prom.hooks.uwsgi", "--module", "wsgi_prom.wsgi:application"],
        }[name]  # fmt: skip
        server = live.LiveServer(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
            env={"WSGI_PROM_BIND": f"127.0.0.1:{metrics_number}", "WSGI_PROM_APP": "plain:app"},
        )
        with server:
            url = f"http://127.0.0.1:{metrics_number}/metrics"
            assert live.eventually(lambda: answers(f"http://127.0.0.1:{number}/") and answers(url), bool)
            live.drive(f"http://127.0.0.1:{number}", ["/"] * 5)
            samples = live.parse_samples(live.request(url).body.decode())
    assert servers.requests_counted(samples)["/", "200"] >= 6
    assert value(samples, "wsgi_prom_unreadable_files") == 0


def answers(url: str) -> bool:
    try:
        return live.request(url).status == 200
    except OSError:
        return False


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, shared: Path) -> Iterator[live.LiveServer]:
    """Start an exporter without a token in the directory, as another server would; this one has a token."""
    with exporters.serve(shared) as server:
        assert server.metrics_url
        monkeypatch.setenv("WSGI_PROM_BIND", "127.0.0.1:0")
        monkeypatch.setenv("WSGI_PROM_TOKEN_FILE", "/etc/token")
        yield server


def test_settings_that_another_servers_exporter_does_not_have_are_told(
    running: live.LiveServer, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the settings that the running exporter of another server does not have."""
    launch(shared, None, Target(), exporter_environment())
    assert "" == caplog.text
    launch(shared, Address("127.0.0.1", 0), Target(), exporter_environment())
    assert [running.pid] == running.processes()
    assert ["WSGI_PROM_TOKEN_FILE"] == re.findall(r"with other settings \((.*)\) and keeps them", caplog.text)


def test_an_exporter_that_cannot_be_replaced_ends(
    running: live.LiveServer, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a reload adds a token and no new exporter can be started, the old one ends, so that the page is not open."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(OSError, match="/nowhere/python3"):
        launch(shared, Address("127.0.0.1", 0), Target(), exporter_environment(), reload=True)
    assert 0 == running.wait()


def test_a_frozen_application_is_told_how_to_have_an_exporter(
    monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    """
    An application in a frozen executable is told to run `wsgi-prom serve`, since no Python can be started with its
    modules.
    """
    directory.prepare(shared)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/shop/shop")
    with pytest.raises(OSError, match="modules of /opt/shop/shop: run wsgi-prom serve beside it"):
        launch(shared, Address("127.0.0.1", 0), Target(), exporter_environment())
