"""The commands of `wsgi-prom`, as a user calls them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import tty
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import live
import pytest
import servers

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = live.environment(env, runtime=live.ROOT)
    command = [sys.executable, "-m", "wsgi_prom", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_dump_prints_what_a_scrape_shows() -> None:
    """wsgi-prom dump and its --json show the figures of a running server."""
    with live.gunicorn(workers=2) as server:
        live.drive(server.url, ["/"] * 30)
        folder = str(servers.shared_directory(server))
        text = run("dump", "--directory", folder)
        as_json = run("dump", "--json", PROMETHEUS_MULTIPROC_DIR=folder)
    assert {("/", "200"): 30} == servers.requests_counted(live.parse_samples(text.stdout))
    (family,) = [item for item in json.loads(as_json.stdout) if item["name"] == "http_requests"]
    assert family["type"] == "counter"
    assert family["samples"] == [
        {
            "name": "http_requests_total",
            "labels": {"method": "GET", "route": "/", "status": status},
            "value": count,
        }
        for status, count in (("200", 30.0), ("500", 0.0))
    ]
    assert (text.stderr, as_json.stderr) == ("", "")


def test_dump_leaves_out_what_the_directory_does_not_tell() -> None:
    """It shows the workers as a scrape does, and nothing of the kernel's queues, the server's own word and the exporter."""
    with live.gunicorn(workers=2) as server:
        live.drive(server.url, ["/"] * 30)
        live.eventually(
            lambda: servers.value(server.samples(), "wsgi_workers", state="idle"), lambda idle: idle == 2
        )
        scraped = server.samples()
        dumped = live.parse_samples(run("dump", "--directory", str(servers.shared_directory(server))).stdout)
    names = {name for name, _ in dumped}
    assert {
        "wsgi_workers", "wsgi_worker_busy_seconds_total", "wsgi_worker_requests_total", "wsgi_worker_start_time_seconds",
        "wsgi_worker_starts_total", "wsgi_request_age_seconds",
    } <= names  # fmt: skip
    told_by_others = ("wsgi_listen", "wsgi_server_info", "wsgi_worker_capacity", "wsgi_prom_scrapes")
    assert set() == {name for name in names if name.startswith(told_by_others)}
    workers = [key for key in scraped if key[0].startswith("wsgi_worker") and key in dumped]
    assert {key: scraped[key] for key in workers} == {key: dumped[key] for key in workers}


def test_dump_knows_no_workers_without_a_hook(tmp_path: Path) -> None:
    """Of a process that records by itself, nobody says whether it is a worker: how many there are is absent, not 0."""
    tmp_path.chmod(0o700)
    code = "from prometheus_client import Counter; import wsgi_prom; from wsgi_prom.client import patch; patch.install(); Counter('a', 'A.').inc()"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
    )
    dumped = live.parse_samples(run("dump", "--directory", str(tmp_path)).stdout)
    assert 1 == dumped["a_total", frozenset()]
    assert not [name for name, _ in dumped if name.startswith("wsgi_worker")]


def test_reset_refuses_a_directory_in_use_and_says_who_holds_it() -> None:
    """wsgi-prom reset names the roles and pids that hold the directory, and leaves it alone."""
    with live.gunicorn(workers=2) as server:
        live.drive(server.url, ["/"] * 10)
        folder = str(servers.shared_directory(server))
        done = run("reset", "--directory", folder)
        counted = servers.requests_counted(server.samples())
        workers = server.workers()
        exporter = servers.supervisor_and_serving(server)
        pid = server.pid
    assert done.returncode == 1
    assert f"server by pid {pid}" in done.stderr
    # Both of its processes hold the place; the kernel names one of them.
    assert any(f"exporter by pid {holder}" in done.stderr for holder in exporter)
    assert all(f"by pid {worker}" in done.stderr for worker in workers)
    assert {("/", "200"): 10} == counted


def test_reset_clears_what_nobody_uses(tmp_path) -> None:
    """wsgi-prom reset removes the figures of an ended run, and nothing else."""
    tmp_path.chmod(0o700)
    with live.gunicorn(workers=1, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as server:
        live.drive(server.url, ["/"] * 10)
    (tmp_path / "notes.txt").touch()
    before = {path.name for path in tmp_path.iterdir()}
    done = run("reset", "--directory", str(tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert (done.returncode, done.stdout) == (0, f"{tmp_path} is clear\n")
    assert {"wsgi_prom.0.keys", "wsgi_prom.0.values"} <= before
    assert set() == {name for name in left if name.endswith((".keys", ".values"))}
    assert "notes.txt" in left


def test_serve_runs_the_exporter_by_hand(tmp_path) -> None:
    """wsgi-prom serve answers for a server that has no exporter of its own, and ends with SIGTERM."""
    tmp_path.chmod(0o700)
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with live.gunicorn(workers=2, WSGI_PROM_BIND="off", **env) as server:
        live.drive(server.url, ["/"] * 10)
        command = [sys.executable, "-m", "wsgi_prom", "serve", "--bind", "127.0.0.1:0"]
        with live.LiveServer(command, env=env, ready=(live.METRICS_LINE, 1)) as exporter:
            counted = servers.requests_counted(exporter.samples())
            again = run("serve", "--bind", "127.0.0.1:0", **env)
            exporter.kill(15)
            assert exporter.wait() == 0
        assert [] == servers.exporter_processes(server)
    assert {("/", "200"): 10} == counted
    assert (again.returncode, again.stdout) == (0, "")
    assert "has an exporter already" in again.stderr


def test_serve_tells_what_it_is_told_of_the_server(tmp_path) -> None:
    """An exporter by hand that is given server, concurrency and address has the workers' states, the capacity and the queue."""
    tmp_path.chmod(0o700)
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with live.gunicorn(workers=1, WSGI_PROM_BIND="off", **env) as server, contextlib.ExitStack() as stack:
        address = server.url.removeprefix("http://").rstrip("/")
        command = [sys.executable, "-m", "wsgi_prom", "serve", "--bind", "127.0.0.1:0", "--server", "gunicorn",
                   "--concurrency", "1", "--queue", address]  # fmt: skip
        exporter = stack.enter_context(live.LiveServer(command, env=env, ready=(live.METRICS_LINE, 1)))
        pool = stack.enter_context(ThreadPoolExecutor(3))
        asked = [pool.submit(server.get, "/sleep?s=2") for _ in range(3)]

        def figures(page: live.Samples) -> tuple[float | None, ...]:
            return (
                servers.value(page, "wsgi_listen_queue", socket=address),
                servers.value(page, "wsgi_worker_capacity"),
                servers.value(page, "wsgi_workers", state="busy"),
            )

        # A page may be of the moment in which the worker has taken a connection and not yet begun.
        found = live.eventually(exporter.samples, lambda page: figures(page) == (2, 1, 1))
        assert [200] * 3 == [answer.result().status for answer in asked]
    # This one's need not be the server's.
    assert "python_info" not in {name for name, _ in found}


def test_serve_on_a_unix_socket(tmp_path) -> None:
    """WSGI_PROM_BIND=unix:/PATH makes a socket that only its user can open; one in use is not taken over."""
    import socket

    tmp_path.chmod(0o700)
    path = tmp_path / "metrics.sock"
    command = [
        sys.executable,
        "-m",
        "wsgi_prom",
        "serve",
        "--directory",
        str(tmp_path),
        "--bind",
        f"unix:{path}",
    ]
    with live.LiveServer(command, ready=(r"metrics at unix:", 1)):
        (tmp_path / "second").mkdir(mode=0o700)
        second = run("serve", "--directory", str(tmp_path / "second"), "--bind", f"unix:{path}")
        mode = oct(path.stat().st_mode)[-3:]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            answer = client.recv(4096)
    assert mode == "600"
    assert answer.startswith(b"HTTP/1.0 200 OK")
    assert second.returncode == 1
    assert "in use by another process" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("dump", "--directory", "/nowhere"), "/nowhere cannot be read"),
        (("reset", "--directory", "/etc/hosts"), "/etc/hosts is not a directory"),
        (("reset", "--directory", "/etc/hosts/d"), "/etc/hosts/d: Not a directory"),
        (("serve", "--directory", "/etc/hosts/d"), "/etc/hosts/d: Not a directory"),
        (("serve", "--directory", "/nowhere", "--bind", "off"), "--bind=off leaves no address to serve on"),
        (("serve", "--directory", "/tmp", "--bind", "nonsense"), "bind='nonsense' is not HOST:PORT"),
        (("serve", "--directory", "/tmp", "--queue", "nonsense"), "--queue=nonsense is not an address"),
        (("serve", "--directory", "/tmp", "--queue", "no host.invalid:1"), "Give HOST:PORT or [IPV6]:PORT"),
    ],
)
def test_a_call_that_cannot_work_is_one_line(arguments: tuple[str, ...], told: str) -> None:
    """Errors of commands are one line on stderr and exit code 1."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_serve_where_the_environment_turns_the_exporter_off_is_an_error() -> None:
    """`wsgi-prom serve` needs an address: WSGI_PROM_BIND=off is an error, and the message says to set one."""
    done = run("serve", "--directory", "/nowhere", WSGI_PROM_BIND="off")
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.endswith(
        "wsgi_prom: WSGI_PROM_BIND=off leaves no address to serve on. "
        "Give --bind HOST:PORT or --bind unix:/PATH.\n"
    )


def test_serve_may_start_before_the_server(tmp_path) -> None:
    """`serve` makes no directory; it waits for a server that starts later, and then serves its metrics."""
    folder = tmp_path / "run" / "shared"
    command = [sys.executable, "-m", "wsgi_prom", "serve", "--directory", folder]
    waiting = re.escape(f"wsgi_prom: {folder} does not exist; nothing is served until a server makes it")
    with live.LiveServer(command, ready=(waiting, 1)) as exporter:
        assert [] == list(tmp_path.iterdir())
        with live.gunicorn(workers=2, WSGI_PROM_BIND="off", PROMETHEUS_MULTIPROC_DIR=str(folder)) as server:
            live.drive(server.url, ["/"] * 10)
            counted = servers.requests_counted(exporter.samples())
    assert {("/", "200"): 10} == counted


def test_serve_of_a_misspelt_directory_makes_nothing_and_ends_with_sigterm(tmp_path) -> None:
    """`serve` for a directory that never appears makes nothing, and ends with status 0 on SIGTERM."""
    command = [sys.executable, "-m", "wsgi_prom", "serve", "--directory", tmp_path / "typo"]
    with live.LiveServer(command, ready=(r"does not exist", 1)) as exporter:
        exporter.kill(15)
        assert exporter.wait() == 0
    assert [] == list(tmp_path.iterdir())


def test_a_directory_in_which_nobody_has_recorded_is_told(tmp_path) -> None:
    """
    `dump` of a directory that holds no metrics prints an empty page, and says on stderr that nobody has recorded there.
    """
    done = run("dump", "--directory", str(tmp_path))
    assert 0 == done.returncode
    assert f"wsgi_prom: {tmp_path} has no metrics: no process has recorded in it\n" == done.stderr


def test_reset_before_the_first_start_has_nothing_to_do(tmp_path) -> None:
    """`reset` of a directory that does not exist exits with 0 and does not make it."""
    done = run("reset", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "new"))
    assert (0, f"{tmp_path}/new does not exist yet: nothing to clear\n", "") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "wsgi_prom"], [live.BIN / "wsgi-prom"]], ids=["module", "script"]
)
def test_version(command: list[str]) -> None:
    """--version prints the name and the installed version."""
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, timeout=60, check=False, cwd=live.ROOT
    )
    assert (0, f"wsgi-prom {version('wsgi-prom')}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_without_docstrings_all_works_as_with_them() -> None:
    """With PYTHONOPTIMIZE=2 the commands still have their help, and a server its exporter."""
    told = run("--help", PYTHONOPTIMIZE="2")
    assert (0, run("--help").stdout) == (told.returncode, told.stdout)
    with live.gunicorn(workers=1, PYTHONOPTIMIZE="2") as server:
        live.drive(server.url, ["/"] * 10)
        assert {("/", "200"): 10} == servers.requests_counted(server.samples())


@pytest.mark.parametrize("broken", ["check", "dump", "reset"])
def test_a_command_needs_no_module_of_another(broken: str) -> None:
    """A hook's exporter starts even if the module of another command cannot be imported."""
    program = (
        f"import sys; sys.modules['wsgi_prom.cli.{broken}'] = None; from wsgi_prom.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, True) == (done.returncode, "--bind" in done.stdout), done.stderr


HOSTILE = "a\x1b]0;owned\x07\x9b2Jb\x7f\u202eé"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Return a directory with a metric whose label a client has chosen."""
    folder = tmp_path_factory.mktemp("hostile")
    made = f"from prometheus_client import Counter\nCounter('seen', '', ['by']).labels({HOSTILE!r}).inc()"
    environ = live.environment({"PROMETHEUS_MULTIPROC_DIR": str(folder)}, runtime=live.ROOT)
    subprocess.run([sys.executable, "-c", made], env=environ, timeout=60, check=True)
    return folder


def test_dump_into_a_file_is_exactly_the_page(hostile: Path) -> None:
    """`dump` writes UTF-8 with every character of the labels, whatever the locale."""
    command = [sys.executable, "-m", "wsgi_prom", "dump", "--directory", hostile]
    environ = live.environment({"PYTHONIOENCODING": "latin-1"}, runtime=live.ROOT)
    done = subprocess.run(command, env=environ, capture_output=True, timeout=60, check=True)
    assert f'seen_total{{by="{HOSTILE}"}} 1.0\n' in done.stdout.decode()
    assert f'seen_total{{by="{HOSTILE}"}} 1.0\n'.encode() in done.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_dump_to_a_terminal_shows_control_characters_and_sends_none(
    hostile: Path, options: list[str]
) -> None:
    """`dump` escapes control characters on a terminal, so that no label of a client can clear it or set its title."""
    shown = on_a_terminal("dump", "--directory", str(hostile), *options)
    assert {"\n"} == {character for character in shown if not character.isprintable()}
    if options:
        (family,) = [item for item in json.loads(shown) if item["name"] == "seen"]
        assert HOSTILE == family["samples"][0]["labels"]["by"]
    else:
        assert r'seen_total{by="a\x1b]0;owned\x07\x9b2Jb\x7f\u202eé"} 1.0' in shown


def on_a_terminal(*arguments: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)  # the terminal adds no carriage returns of its own
    environ = live.environment({"PYTHONIOENCODING": "utf-8"}, runtime=live.ROOT)
    command = [sys.executable, "-m", "wsgi_prom", *arguments]
    with subprocess.Popen(command, env=environ, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_a_host_that_is_no_name_is_one_clear_line(tmp_path) -> None:
    """A host name with an empty or too long label is one line of error with the setting and the remedy."""
    tmp_path.chmod(0o700)
    for host in ("a..b", f"{'a' * 64}.example"):
        done = run("serve", "--directory", str(tmp_path), "--bind", f"{host}:80")
        assert (1, "") == (done.returncode, done.stdout)
        assert re.fullmatch(
            r"\[.*\] \[\d+\] \[ERROR\] wsgi_prom: cannot listen on WSGI_PROM_BIND=.* or to off\.\n",
            done.stderr,
        )


def test_a_reader_who_has_enough_is_no_error_to_tell(hostile: Path) -> None:
    """`wsgi-prom dump | head` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "wsgi_prom", "dump", "--directory", str(hostile)],
            check=False, cwd=live.ROOT, stdout=closed, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
    assert b"" == done.stderr
