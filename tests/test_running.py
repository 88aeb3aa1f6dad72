"""Commands without a directory: they find the running servers, use the only one, and list several."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers
from users import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A /dev/shm of its own, since servers of other tests run at the same time.
# Each has a shared memory of its own.
pytestmark = needs_root

ALONE = ["unshare", "--mount", "sh", "-ec", 'mount -t tmpfs -o mode=1777 alone /dev/shm; exec "$@"', "sh"]


NOBODY = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]

NONE = (
    "wsgi_prom: found no running server of this user. Run the command as the server's user or as root, give --directory, or "
    "set PROMETHEUS_MULTIPROC_DIR.\n"
)


def beside(server: live.LiveServer) -> list[str]:
    """Return what runs a command where *server* runs."""
    return ["nsenter", "--mount", f"--target={server.pid}"]


def run(
    place: list[str], *arguments: str, user: list[str] | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    environ = live.environment({"WSGI_PROM_BIND": None, **env}, runtime=live.ROOT)
    command = [sys.executable, "-m", "wsgi_prom", *arguments]
    if user:
        command = live.for_any_user([*user, *command])
    return subprocess.run(
        [*place, *command], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}


def without_psutil(folder: Path) -> str:
    """Return a PYTHONPATH in *folder* from which psutil cannot be imported."""
    (folder / "psutil.py").write_text("raise ImportError('psutil is not installed')\n")
    return f"{live.ROOT}:{folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[live.LiveServer]:
    """Run a gunicorn that has answered ten requests, and serves no metrics itself."""
    made = live.gunicorn(workers=1, WSGI_PROM_BIND="off")
    made.command = [*ALONE, *made.command]
    with made:
        live.drive(made.url, ["/"] * 10)
        yield made


def test_dump_shows_the_only_server(server: live.LiveServer) -> None:
    """`dump` without --directory or a variable shows the only running server."""
    done = run(beside(server), "dump")
    assert (0, "") == (done.returncode, done.stderr)
    assert {("/", "200"): 10} == servers.requests_counted(live.parse_samples(done.stdout))


def test_serve_serves_the_only_server(server: live.LiveServer) -> None:
    """`serve` finds the only server, which was started without an exporter."""
    command = [*beside(server), sys.executable, "-m", "wsgi_prom", "serve", "--bind", "127.0.0.1:0"]
    with live.LiveServer(command, ready=(live.METRICS_LINE, 1)) as exporter:
        assert {("/", "200"): 10} == servers.requests_counted(exporter.samples())


def test_several_servers_are_listed(server: live.LiveServer) -> None:
    """Several servers are listed with directory, pid, command and address; `check` lists them too."""
    second = live.uwsgi(workers=1)
    second.command = [*beside(server), *second.command]
    with second:
        address = second.metrics_url.removeprefix("http://").removesuffix("/metrics")
        done = run(beside(server), "dump")
        checked = run(beside(server), "check", "--json", WSGI_PROM_BIND=address)
        chosen = re.search(rf"(\S+)  \(pid {second.pid}, ", done.stderr)
        shown = run(beside(server), "dump", "--directory", chosen[1]) if chosen else None
    assert (1, "") == (done.returncode, done.stdout)
    told = [
        finding
        for finding in json.loads(checked.stdout)["findings"]
        if finding["subject"] in {"address", "running"}
    ]
    assert [None] * 3 == [finding["ok"] for finding in told]
    assert told[0]["message"].startswith(
        f"{address} is in use by the exporter of a running server: /dev/shm/wsgi_prom-"
    )
    first, *lines = done.stderr.splitlines()
    assert "wsgi_prom: 2 servers are running. Choose one with --directory:" == first
    directory = r"wsgi_prom: /dev/shm/wsgi_prom-\d+-[0-9a-f]{16}"
    expected = {
        rf"{directory}  \(pid {server.pid}, .*gunicorn .* plain:app; no exporter\)",
        rf"{directory}  \(pid {second.pid}, .*uwsgi .*; metrics at {re.escape(address)}\)",
    }
    assert [] == [pattern for pattern in expected if not any(re.fullmatch(pattern, line) for line in lines)]
    assert (2, 0) == (len(lines), shown.returncode if shown else None)


def test_check_knows_the_server_of_the_directory_that_the_environment_names(tmp_path: Path) -> None:
    """`check` accepts an address that the server of the same directory uses."""
    folder = str(tmp_path / "shared")
    with live.gunicorn(workers=1, PROMETHEUS_MULTIPROC_DIR=folder) as server:
        address = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
        env = {"PROMETHEUS_MULTIPROC_DIR": folder, "WSGI_PROM_BIND": address}
        done = run(ALONE, "check", "--json", **env)
        bare = run(ALONE, "check", "--json", **env, PYTHONPATH=without_psutil(tmp_path))
    found, found_bare = findings(done), findings(bare)
    assert [(0, None)] * 2 == [
        (done.returncode, found["address"]["ok"]),
        (bare.returncode, found_bare["address"]["ok"]),
    ]
    assert found["running"]["message"].startswith(f"{folder}  (pid {server.pid}, ")
    assert f"{folder}  (pid {server.pid}; an exporter)" == found_bare["running"]["message"]
    assert found_bare["address"]["message"].startswith(
        f"{address} is in use, perhaps by the exporter of a running server"
    )


@pytest.mark.parametrize("bind", ["127.0.0.1:{port}", "0.0.0.0:{port}", "[::]:{port}", "unix:{path}"])
def test_without_psutil_an_address_in_use_is_told_with_what_tells_the_process(
    bind: str, tmp_path: Path
) -> None:
    """Without psutil `check` still reports an address in use, and says how to find the process."""
    path = tmp_path / "metrics.sock"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        tcp.listen()
        unix.listen()
        address = bind.format(port=tcp.getsockname()[1], path=path)
        env = {"WSGI_PROM_BIND": address, "PYTHONPATH": without_psutil(tmp_path), "TMPDIR": str(tmp_path)}
        done = run(ALONE, "check", "--json", **env)
    found = findings(done)["address"]
    assert (1, False, f"{address} is in use") == (done.returncode, found["ok"], found["message"])
    assert found["remedy"].endswith("pip install 'wsgi-prom[processes]'")


def test_what_is_in_use_is_not_reset(server: live.LiveServer) -> None:
    """`reset` without a directory does not clear that of the only server."""
    done = run(beside(server), "reset")
    assert (1, "") == (done.returncode, done.stdout)
    assert f"is in use (server by pid {server.pid}" in done.stderr


def test_another_users_servers_are_not_found(server: live.LiveServer) -> None:
    """Neither another user's directory nor one without a living server is found."""
    lone, empty = "/dev/shm/wsgi_prom-0-0123456789abcdef", "/dev/shm/wsgi_prom-0-fedcba9876543210"
    made = f"mkdir -m 700 {lone} {empty}; touch {lone}/wsgi_prom.lock"
    subprocess.run([*beside(server), *NOBODY, "sh", "-c", made], check=True)
    other = run(beside(server), "dump", user=NOBODY)
    own = run(beside(server), "dump")
    assert (1, "", NONE) == (other.returncode, other.stdout, other.stderr)
    assert (0, "") == (own.returncode, own.stderr)


@pytest.mark.parametrize("command", ["dump", "serve", "reset"])
def test_where_no_server_runs_a_directory_has_to_be_named(command: str) -> None:
    """If no server runs, one line of error says how to name a directory."""
    done = run(ALONE, command)
    assert (1, "", NONE) == (done.returncode, done.stdout, done.stderr)
