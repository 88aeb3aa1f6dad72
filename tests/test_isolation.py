"""Servers beside each other, and commands and imports that must leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import live
import pytest
import servers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", servers.BOTH)
def test_two_servers_of_the_same_configuration_keep_their_own_totals(name: str) -> None:
    """Two servers with the same configuration on different ports count their own requests."""
    with servers.start(name, workers=2) as first, servers.start(name, workers=2) as second:
        live.drive(first.url, ["/"] * 30)
        live.drive(second.url, ["/"] * 70)
        counted = [servers.requests_counted(server.samples()) for server in (first, second)]
    assert [{("/", "200"): 30}, {("/", "200"): 70}] == counted


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_taken_metrics_port_does_not_keep_the_application_from_serving(name: str) -> None:
    """A second server on a metrics port serves its application, and its log says why it has no metrics."""
    with servers.start(name, workers=2) as first:
        taken = first.metrics_url.removeprefix("http://").removesuffix("/metrics")
        with servers.start(name, workers=2, WSGI_PROM_BIND=taken) as second:
            line = second.wait_for_log(r"wsgi_prom: cannot listen on .*")[0]
            answer = second.get("/")
            live.drive(first.url, ["/"] * 10)
            counted = servers.requests_counted(first.samples())
    assert answer.status == 200
    assert f"WSGI_PROM_BIND='{taken}'" in line
    assert "in use" in line
    assert {("/", "200"): 10} == counted


@pytest.mark.parametrize(("app", "told"), [("metered:app", 1), ("plain:app", 0)])
def test_two_applications_in_one_directory_are_told(app: str, told: int, tmp_path: Path) -> None:
    """The second server in a directory says so if its application is another one: the page shows both as one."""
    folder = str(tmp_path / "metrics")
    with live.gunicorn("plain:app", workers=1, PROMETHEUS_MULTIPROC_DIR=folder) as first:
        first.samples()
        with live.gunicorn(app, workers=1, PROMETHEUS_MULTIPROC_DIR=folder) as second:
            second.get("/")
            log = second.log()
    assert told == log.count(f"wsgi_prom: {folder} is the directory of plain:app as well: ")
    assert told == log.count("unset PROMETHEUS_MULTIPROC_DIR")


# A shared memory of its own for the command, so that servers of other tests leave nothing in it.
PRIVATE = 'mount -t tmpfs private /dev/shm && "$@"; code=$?; ls -A /dev/shm > shared-memory; exit $code'


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with the environment of a server."""
    environ = live.environment({"TMPDIR": str(folder), **env}, runtime=folder)
    words = ["unshare", "--mount", "sh", "-c", PRIVATE, "sh", *command]
    done = subprocess.run(
        words, env=environ, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    if done.stderr.startswith("unshare: "):
        raise PermissionError(done.stderr)
    return done


def traces(folder: Path) -> set[str]:
    """All that the last `run` left in shared memory, the temporary folder, and folders in it."""
    shared = (
        (folder / "shared-memory").read_text().splitlines() if (folder / "shared-memory").exists() else []
    )
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - {"shared-memory"}
    return left | {f"/dev/shm/{name}" for name in shared}


FULL = """
from contextlib import suppress
from wsgi_prom.store import directory
from wsgi_prom.store.slots import SharedSlot

path = directory.name_temporary()
lock_file = directory.prepare(path)
SharedSlot.claim(path)
with open("/dev/shm/full", "wb", buffering=0) as full, suppress(OSError):
    while full.write(bytes(4096)):
        pass
print(directory.discard(path, lock_file))
"""


def test_a_full_shared_memory_is_left_by_who_ends(tmp_path: Path) -> None:
    """A server removes its directory even if shared memory is full."""
    small = 'mount -o remount,size=200k /dev/shm && exec "$@"'
    done = run(tmp_path, "sh", "-c", small, "sh", sys.executable, "-c", FULL)
    assert ("True\n", "") == (done.stdout, done.stderr)
    assert {"/dev/shm/full"} == traces(tmp_path)


GUNICORN = str(live.BIN / "gunicorn")
HOOK = ("-c", "python:wsgi_prom.hooks.gunicorn")
WATCH = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd"))
import {module}
left = set(os.listdir("/proc/self/fd")) - before
print(threading.active_count(), sorted(os.readlink(f"/proc/self/fd/{{fd}}") for fd in left))
"""


@pytest.mark.parametrize(("option", "configured"), [("--check-config", True), ("--print-config", False)])
def test_checking_a_configuration_makes_nothing(option: str, configured: bool, tmp_path: Path) -> None:
    """gunicorn --check-config, which runs the hook and imports the application, makes and clears no file."""
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")} if configured else {}
    (tmp_path / "metrics").mkdir(mode=0o700)
    (tmp_path / "metrics" / "counter_1.db").write_bytes(b"of a server that may be running")
    before = traces(tmp_path)
    done = run(tmp_path, GUNICORN, *HOOK, "--preload", option, "metered:app", **env)
    assert done.returncode == 0, done.stderr
    assert before == traces(tmp_path)


def test_a_gunicorn_that_cannot_listen_leaves_nothing(tmp_path: Path) -> None:
    """gunicorn makes the directory before it listens, and tells no hook that it could not (a port in use, no certificate)."""
    done = run(tmp_path, GUNICORN, *HOOK, "--no-control-socket", "--certfile", "none", "plain:app")
    assert 'certfile "none" does not exist' in done.stderr
    assert set() == traces(tmp_path)


@pytest.mark.parametrize(
    ("bind", "options", "refused"),
    [
        ("nonsense", [], True),
        ("nonsense", ["--env", "WSGI_PROM_BIND=off"], False),
        ("off", ["--env", "WSGI_PROM_BIND=nonsense"], True),
    ],
    ids=["in the environment", "set right by raw_env", "in raw_env"],
)
def test_checking_a_configuration_refuses_a_wrong_setting(
    bind: str, options: list[str], refused: bool, tmp_path: Path
) -> None:
    """--check-config names a wrong setting in one line."""
    done = run(tmp_path, GUNICORN, *HOOK, "--check-config", *options, "plain:app", WSGI_PROM_BIND=bind)
    lines = [line for line in done.stderr.splitlines() if "WSGI_PROM_BIND='nonsense'" in line]
    assert (int(refused), int(refused)) == (done.returncode, len(lines))
    assert "Traceback" not in done.stderr
    assert set() == traces(tmp_path)


@pytest.mark.parametrize("module", ["wrapped", "wsgi_prom.hooks.gunicorn"])
def test_an_import_makes_nothing(module: str, tmp_path: Path) -> None:
    """Importing an application, even one that is wrapped by hand, makes no file, socket, thread or slot."""
    done = run(tmp_path, sys.executable, "-c", WATCH.format(module=module))
    assert (done.stdout, done.stderr) == ("1 []\n", "")
    assert set() == traces(tmp_path)


def test_an_import_that_names_a_directory_makes_nothing(tmp_path: Path) -> None:
    """With PROMETHEUS_MULTIPROC_DIR set, the import leaves no file of the client library either."""
    (tmp_path / "metrics").mkdir(mode=0o700)
    done = run(
        tmp_path,
        sys.executable,
        "-c",
        WATCH.format(module="wrapped"),
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "metrics"),
    )
    assert (done.stdout, done.stderr) == ("1 []\n", "")
    assert {"metrics"} == traces(tmp_path)


def test_a_django_management_command_makes_nothing(tmp_path: Path) -> None:
    """manage.py check imports the wrapped application and leaves no file."""
    done = run(tmp_path, sys.executable, "-m", "django", "check", "--settings", "django_settings")
    assert (done.returncode, done.stdout) == (0, "System check identified no issues (0 silenced).\n"), (
        done.stderr
    )
    assert set() == traces(tmp_path)


def wrong_settings(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Return settings that cannot be used: the variable, the value, and words that the error must have."""
    a_file = folder / "file"
    a_file.touch()
    foreign = folder / "foreign"
    foreign.mkdir(mode=0o700)
    os.chown(foreign, 12345, 12345)
    return {
        "bind": ("WSGI_PROM_BIND", "nonsense", "HOST:PORT"),
        "port": ("WSGI_PROM_BIND", "127.0.0.1:99999", "HOST:PORT"),
        "limit": ("WSGI_PROM_LABEL_LIMIT", "0", "1 or more"),
        "file": ("PROMETHEUS_MULTIPROC_DIR", str(a_file), "not a directory"),
        "foreign": ("PROMETHEUS_MULTIPROC_DIR", str(foreign), "belongs to uid 12345"),
        # As root nothing else is unwritable.
        "unwritable": ("PROMETHEUS_MULTIPROC_DIR", "/proc/metrics", "Name a directory"),
    }


# Of uWSGI one setting and one directory: which it is makes no difference to how a server tells it.
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *(("gunicorn sync", case) for case in ("bind", "port", "limit", "file", "foreign", "unwritable")),
        *(("uwsgi prefork", case) for case in ("bind", "unwritable")),
    ],
)
def test_a_wrong_setting_is_one_clear_line_at_start(name: str, case: str, tmp_path: Path) -> None:
    """A server with a wrong setting does not start; one line names the setting, its value and the remedy."""
    variable, given, told = wrong_settings(tmp_path)[case]
    if name.startswith("gunicorn"):
        command = [GUNICORN, *HOOK, "--bind", "127.0.0.1:0", "plain:app"]
    else:
        command = [str(live.BIN / "uwsgi"), "--http-socket", "127.0.0.1:0", "--master", "--need-app"]
        command += ["--shared-import", "wsgi_prom.hooks.uwsgi", "--module", "plain:app"]
    done = run(tmp_path, *command, **{variable: given})
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "wsgi_prom: " in line]
    assert done.returncode != 0
    assert len(lines) == 1, done.stdout + done.stderr
    assert f"{variable}={given!r}" in lines[0]
    assert told in lines[0]
    assert "Traceback" not in done.stdout + done.stderr


def test_the_request_path_imports_no_framework_and_no_webob(tmp_path: Path) -> None:
    """wsgi_prom and its middleware import neither WebOb nor psutil, a framework or the client library."""
    code = (
        "import sys, wsgi_prom; wsgi_prom.PrometheusMiddleware(print); print(sorted({'webob', 'psutil', 'flask', "
        "'werkzeug', 'django', 'bottle', 'waitress', 'prometheus_client'} & sys.modules.keys()))"
    )
    done = run(tmp_path, sys.executable, "-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_workers_that_drop_to_another_user_own_their_files() -> None:
    """With gunicorn --user the arbiter stays root, while directory, files and exporter belong to the workers' user."""
    command = live.for_any_user([GUNICORN, *HOOK, "--bind", "127.0.0.1:0", "--user", "www-data", "--group",
                                 "www-data", "--workers", "2", "metered:app"])  # fmt: skip
    ready = (r"Booting worker with pid", 2)
    secret = {"DATABASE_PASSWORD": "in nobody's hands"}
    with live.LiveServer(command, env=secret, ready=ready, address=live.GUNICORN_LINE) as server:
        live.drive(server.url, ["/record"] * 40)
        samples = server.samples()
        folder = servers.shared_directory(server)
        owners = {(found.st_uid, oct(found.st_mode)[-3:]) for found in servers.files(folder).values()}
        exporter = {live.user_id(pid) for pid in servers.supervisor_and_serving(server)}
        mode = oct(folder.stat().st_mode)[-3:]
        readable = [environment_seen_by("www-data", pid) for pid in server.processes()]
        server.kill(15)
        gone = live.eventually(folder.exists, lambda found: not found)
    assert servers.value(samples, "app_orders_total", kind="a") == 40
    assert {(33, "600")} == owners
    assert {33} == exporter
    assert mode == "700"
    assert gone is False
    # The exporter's can be read, and does not hold what only root was told.
    assert any("WSGI_PROM_BIND=" in text for text in readable)
    assert not any("DATABASE_PASSWORD" in text for text in readable)


def environment_seen_by(user: str, pid: int) -> str:
    """Return the initial environment of a process as *user* can read it: nothing, where that is forbidden."""
    command = [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "cat",
        f"/proc/{pid}/environ",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


def test_a_worker_that_serves_something_else_is_left_alone() -> None:
    """The application of an ASGI worker is not wrapped, and the log says so."""
    with live.gunicorn("asgi:app", "--worker-class", "asgi", workers=1) as server:
        line = server.wait_for_log(r"wsgi_prom: .* is not a WSGI application: .*")[0]
        answer = server.get("/")
    assert re.search(r"ASGIWorker.* ASGI is not supported", line)
    assert (answer.status, answer.body) == (200, b"asgi")
