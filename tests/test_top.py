"""`wsgi-prom top`: what it shows of a real server, in a terminal and as JSON."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import clients
import exporters
import live
import pytest
import servers
import terminals

from wsgi_prom.cli import main
from wsgi_prom.cli.top_directory import DirectoryFigures
from wsgi_prom.live import text
from wsgi_prom.live import view as view_json
from wsgi_prom.store import directory_files, queue_totals
from wsgi_prom.store.queue_totals import QueueTotal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = live.environment(env, runtime=live.ROOT)
    command = [sys.executable, "-m", "wsgi_prom", "top", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def server() -> Iterator[live.LiveServer]:
    """Two workers that have served 40 requests, a tenth of which failed."""
    with live.gunicorn(workers=2) as found:
        live.drive(found.url, ["/"] * 36 + ["/fail"] * 4)
        yield found


def source(server: live.LiveServer, kind: str) -> list[str]:
    if kind == "url":
        return ["--url", server.metrics_url]
    return ["--directory", str(servers.shared_directory(server))]


@pytest.mark.parametrize("kind", ["directory", "url"])
def test_its_figures_are_those_of_the_page(kind: str, server: live.LiveServer) -> None:
    """Counts, workers, capacity, queue, exits: from the directory and from an exporter alike, as /metrics has them."""
    live.eventually(
        lambda: servers.value(server.samples(), "wsgi_workers", state="idle"), lambda idle: idle == 2
    )
    samples = server.samples()
    done = run(*source(server, kind), "--once", "--json")
    view = json.loads(done.stdout)
    counted = {route: 0.0 for (route, _) in servers.requests_counted(samples)}
    errors = dict(counted)
    for (route, status), count in servers.requests_counted(samples).items():
        counted[route] += count
        errors[route] += count if status == "500" else 0
    assert counted == {row["route"]: row["requests"] for row in view["routes"]}
    assert errors == {row["route"]: row["errors"] for row in view["routes"]}
    assert (sum(counted.values()), sum(errors.values()), 0) == tuple(
        view["requests"][name] for name in ("requests", "errors", "in_progress")
    )
    workers = {row["worker"]: row["requests"] for row in view["workers"] if row["role"] == "worker"}
    found = live.labelled(samples, "wsgi_worker_requests_total")
    assert {dict(labels)["worker"]: count for labels, count in found.items()} == workers
    assert {"booting": 0, "idle": 2, "busy": 0, "stopping": 0} == view["capacity"]["workers"]
    assert servers.value(samples, "wsgi_worker_capacity") == view["capacity"]["capacity"] == 2
    (queue,) = view["queues"]
    assert server.url == f"http://{queue['socket']}"
    assert servers.value(samples, "wsgi_listen_queue_limit", socket=queue["socket"]) == queue["limit"]
    exits = {row["reason"]: row["exits"] for row in view["exits"]}
    assert {
        dict(k)["reason"]: v for k, v in live.labelled(samples, "wsgi_worker_exits_total").items()
    } == exits
    assert all(row["resident_bytes"] > 2**20 and row["cpu"] is not None for row in view["workers"])
    assert {"gunicorn", "plain:app", "sync"} == {
        view["server"][name] for name in ("server", "application", "worker_class")
    }
    assert "" == done.stderr


def test_once_prints_tables(server: live.LiveServer) -> None:
    """--once prints all routes and workers with their rates, without colours into a pipe, and --filter chooses rows."""
    with clients.steadily(server.url, ("/", "/stream")):
        done = run(*source(server, "directory"), "--once", "--sort", "rate", "--filter", "get stream")
    (route,) = [line for line in done.stdout.splitlines() if line.startswith("GET ")]
    assert "GET /stream" == route[:11]
    assert "0" != route.split()[2]
    assert "\x1b" not in done.stdout
    assert ("", 0) == (done.stderr, done.returncode)


def test_it_is_live_and_obeys_keys(server: live.LiveServer) -> None:
    """In a terminal of 80 x 24 it shows workers and routes, sorts, filters, pauses, and leaves the terminal as it was."""
    arguments = ["top", *source(server, "directory")]
    with (
        clients.steadily(server.url, ("/", "/stream")),
        terminals.Terminal(*arguments, NO_COLOR="1") as terminal,
    ):
        assert terminal.shows("plain:app", "Worker", "Route", "GET /stream", "GET /fail", "q quit", "master")
        assert 24 == len(terminal.lines())
        terminal.press("/")
        assert terminal.shows("filter: _")
        terminal.press("STRAEM\x7f\x7f\x7fEAM\r")
        assert terminal.shows("filter: STREAM  q quit")
        assert (
            live.latest(
                lambda: [line for line in terminal.lines() if "GET /fail" in line], lambda found: not found
            )
            == []
        )
        terminal.press("w")
        assert live.latest(lambda: terminal.shows("Worker") and "Route" not in str(terminal.lines()), bool)
        terminal.press("/\r")
        terminal.press("ws")
        assert live.latest(
            lambda: terminal.shows("GET /fail") and "Worker" not in str(terminal.lines()), bool
        )
        terminal.press("p")
        assert terminal.shows("paused")
        frozen = terminal.lines()
        live.latest(lambda: None, lambda _: False, 2.0)
        assert frozen == terminal.lines()
        terminal.press("\x1b[A")
        terminal.press("q")
        assert 0 == terminal.end()
        assert terminal.before == terminal.settings()
        assert [True, True] == [left in terminal.written for left in terminals.LEFT]
        # Colours, and no other attribute.
        assert b"\x1b[3" not in terminal.written


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_the_terminal_as_it_was(number: int, status: int, server: live.LiveServer) -> None:
    """Ctrl-C and a signal end it, and the terminal has its screen, cursor and settings again."""
    with terminals.Terminal("top", *source(server, "url")) as terminal:
        assert terminal.shows("q quit", "GET /")
        assert terminal.before != terminal.settings()
        assert status == terminal.end(number)
        assert terminal.before == terminal.settings()
        assert [True, True] == [left in terminal.written for left in terminals.LEFT]


def test_a_server_that_ends_is_told(tmp_path: Path) -> None:
    """When the exporter no longer answers, its last figures stay with a message."""
    with (
        exporters.serve(tmp_path / "shared") as server,
        terminals.Terminal("top", "--url", server.metrics_url) as terminal,
    ):
        assert terminal.shows("q quit")
        server.stop()
        assert terminal.shows("does not answer: Connection refused")
        terminal.press("q")
        assert 0 == terminal.end()


def test_a_label_is_no_command_of_the_terminal(tmp_path: Path) -> None:
    """Control characters and markup in a label are shown as text."""
    code = """
from prometheus_client import Counter
from wsgi_prom.client import patch
patch.install()
counter = Counter("http_requests", "Requests.", ["method", "route", "status"])
counter.labels("GET", "/\\x1b]0;title\\x07[red]x[/red]", "200").inc()
"""
    tmp_path.chmod(0o700)
    environ = live.environment({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}, runtime=live.ROOT)
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    done = run("--directory", str(tmp_path), "--once")
    assert r"GET /\x1b]0;title\x07[red]x[/red]" in done.stdout
    assert "\x1b" not in done.stdout
    assert f"workers {text.UNKNOWN}" in done.stdout


def test_what_an_exporter_says_is_no_command_of_the_terminal() -> None:
    """Control characters in any text of a view, which another server may have made, are shown as text; in a tiny terminal too."""
    from rich.console import Console

    from wsgi_prom.cli.top_screen import Shown, screen

    evil = "\x1b]0;title\x07"
    data = view_json.View(
        server=view_json.Server(application=evil, server=evil),
        capacity=view_json.Capacity(workers={evil: 1}),
        queues=[view_json.QueueRow(evil)],
        routes=[view_json.RouteRow(method=evil, route=evil)],
        workers=[view_json.WorkerRow(evil, evil, state=evil)],
        exits=[view_json.ExitRow(evil, 1)],
        past=view_json.Past(times=[1.0, 2.0], per_second=[-5.0, 1.0]),
    ).to_json()
    shown = view_json.View.of_json(data)
    for width, height in ((200, 50), (80, 24), (9, 4), (1, 1)):
        out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
        out.print(screen(shown, Shown(filter=evil, problem=evil), width, height))
        assert "\x1b]" not in out.file.getvalue()  # type: ignore[attr-defined]


READABLE = f"Name a file that this server's user (uid {os.geteuid()}) can read."
MISTAKES = [
    (["--json"], "--json prints one reading. Give --once with it."),
    (["--sort", "size"], "--sort='size' is no column. Give one of route, rate, errors, p50, p99, time, count."),
    (["--url", "ftp://host"], "--url='ftp://host' is no URL. Give http://HOST:PORT, https://HOST:PORT or unix:/PATH."),
    (["--url", "http://ann:secret@host:x"], "--url has a login in it, which other users of this machine can read. Give --user and --password-file."),
    (["--url", "http://host:x"], "--url='http://host:x' is no URL. Give http://HOST:PORT, https://HOST:PORT or unix:/PATH."),
    (["--url", "http://host", "--user", "ann"], "--user is given without --password-file. Give both."),
    (["--url", "http://127.0.0.1:1", "--once"], "http://127.0.0.1:1 does not answer: Connection refused."),
    (["--url", "http://host", "--token-file", "/nowhere"],
     f"--token-file='/nowhere' cannot be read: No such file or directory. {READABLE}"),
    (["--url", "https://host", "--ca-file", "/nowhere"], f"--ca-file='/nowhere' cannot be read: No such file or directory. {READABLE}"),
    (["--url", "unix:socket"], "--url='unix:socket' is no URL. Give http://HOST:PORT, https://HOST:PORT or unix:/PATH."),
    (["--url", "unix:/nowhere/socket", "--once"], "unix:/nowhere/socket does not answer: No such file or directory."),
    (["--url", "https://host", "--cert-file", "/nowhere"], "--cert-file is given without --key-file. Give both."),
    (["--url", "http://host", "--cert-file", "/a", "--key-file", "/b"], "--cert-file and --key-file are of TLS. Give an --url with https://."),
    (["--url", "https://host", "--cert-file", "/nowhere", "--key-file", "/nowhere"],
     f"--cert-file='/nowhere' cannot be read: No such file or directory. {READABLE}"),
    (["--directory", "/tmp", "--ca-file", "/a"], "A login and certificates are for --url. Give it, or leave them out."),
    (["--url", "http://host", "--directory", "/tmp"], "--url and --directory are two sources. Give one of them."),
    (["--directory", "/nowhere", "--once"], "/nowhere cannot be read: No such file or directory"),
    (["--directory", "/tmp"], "top draws on a terminal, and this is none. Give --once, or --once --json."),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the option, the value, and what to do."""
    status = main(["top", *arguments])
    assert (1, f"wsgi_prom: {message}\n", "") == (status, *reversed(capsys.readouterr()))


def test_a_token_over_tls(tmp_path: Path) -> None:
    """With the exporter's certificate, one of its own and the token it gets in; without either certificate it tells why it does not."""
    cert, key, token = (tmp_path / name for name in ("cert.pem", "key.pem", "token"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=exporter",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (tmp_path / "web.yml").write_text(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
        "  client_ca_file: cert.pem\n  client_auth_type: RequireAndVerifyClientCert\n"
    )
    for path in (token, key):
        path.write_text(path.read_text() if path.exists() else "secret")
        path.chmod(0o600)
    settings = {"WSGI_PROM_WEB_CONFIG": str(tmp_path / "web.yml"), "WSGI_PROM_TOKEN_FILE": str(token)}
    trusting, own = ["--ca-file", str(cert)], ["--cert-file", str(cert), "--key-file", str(key)]
    with exporters.serve(tmp_path / "shared", **settings) as server:
        url = "https://{}:{}".format(*exporters.address(server))
        command = ["--url", f"{url}/metrics", "--token-file", str(token), "--once", "--json"]
        trusted, unknown, nobody = (run(*command, *more) for more in ([*trusting, *own], own, trusting))
    assert ("", 1) == (trusted.stderr, json.loads(trusted.stdout)["version"])
    assert [True, True] == [
        done.stderr.startswith(f"wsgi_prom: {url} does not answer: ") for done in (unknown, nobody)
    ]
    assert "certificate verify failed" in unknown.stderr
    hint = " If it wants a client certificate, give --cert-file and --key-file.\n"
    assert [False, True] == [done.stderr.endswith(hint) for done in (unknown, nobody)]


def test_a_unix_socket(tmp_path: Path) -> None:
    """It takes the address of an exporter on a unix socket as WSGI_PROM_BIND has it."""
    exporters.fill_routes(tmp_path / "shared", 3)
    with exporters.serve(tmp_path / "shared", f"unix:{tmp_path}/socket"):
        done = run("--url", f"unix:{tmp_path}/socket", "--once", "--json")
    assert ("", 0) == (done.stderr, done.returncode)
    assert ["/00000", "/00001", "/00002"] == [row["route"] for row in json.loads(done.stdout)["routes"]]


def test_a_dumb_terminal_gets_a_line(tmp_path: Path) -> None:
    """Where a terminal cannot move its cursor, nothing is drawn, and --once is proposed."""
    with terminals.Terminal("top", "--directory", str(tmp_path), TERM="dumb") as terminal:
        assert terminal.shows("this is none. Give --once")
        assert 1 == terminal.end()


def test_once_waits_for_rates(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the second look still gets the first reading, as of thousands of routes, it looks again until there are rates."""
    seconds = iter([None, None, 2.0])

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({**view_json.View().to_json(), "seconds": next(seconds)}).encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Slow) as answering:
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        status = main(["top", "--once", "--json", "--url", f"http://127.0.0.1:{answering.server_port}"])
        answering.shutdown()
        thread.join()
    assert (0, 2.0) == (status, json.loads(capsys.readouterr().out)["seconds"])


def test_keys_are_obeyed_while_the_exporter_does_not_answer() -> None:
    """Of an exporter that answers once, and then goes on and on with an answer, `p` pauses and `q` quits without waiting for it."""
    answered, gone = threading.Event(), threading.Event()

    class Hanging(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if not answered.is_set():
                answered.set()
                self.wfile.write(json.dumps(view_json.View().to_json()).encode())
                return
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b" ")
                    time.sleep(0.1)
            gone.set()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as answering:
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        try:
            with terminals.Terminal("top", "--url", f"http://127.0.0.1:{answering.server_port}") as terminal:
                assert terminal.shows("q quit")
                live.latest(lambda: None, lambda _: False, 2.0)
                terminal.press("p")
                assert terminal.shows("paused")
                assert not gone.is_set()
                terminal.press("q")
                assert 0 == terminal.end()
                assert terminal.before == terminal.settings()
            assert gone.wait(60)
        finally:
            answering.shutdown()
            thread.join()


def test_without_rich_there_is_json(server: live.LiveServer) -> None:
    """Where rich is not installed, top says how to install it, and --once --json works."""
    code = (
        "import sys; sys.modules['rich'] = None; from wsgi_prom.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    environ = live.environment({}, runtime=live.ROOT)
    command = [sys.executable, "-c", code, "top", *source(server, "directory")]
    plain, as_json = (
        subprocess.run(
            [*command, *more], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        for more in ([], ["--once", "--json"])
    )
    message = (
        "top needs rich, which is not installed. Run pip install 'wsgi-prom[top]', or give --once --json."
    )
    assert (1, f"wsgi_prom: {message}\n") == (plain.returncode, plain.stderr)
    assert (0, 1) == (as_json.returncode, json.loads(as_json.stdout)["version"])


def test_it_writes_nothing(server: live.LiveServer) -> None:
    """The directory has the same files before and after, and the server the same processes."""
    folder = servers.shared_directory(server)
    server.samples()  # its exporter has started
    before = {name: found.st_size for name, found in servers.worker_files(folder).items()}
    processes = server.processes()
    assert 0 == run("--directory", str(folder), "--once").returncode
    assert before == {name: found.st_size for name, found in servers.worker_files(folder).items()}
    assert processes == server.processes()


def test_the_next_server_of_a_directory_begins_anew(tmp_path: Path) -> None:
    """
    When a server has ended and another one uses its directory, the figures are those of the latter, without a restart of top; what
    its exporter has counted is gone on from, and not written.
    """
    shared = str(tmp_path / "shared")
    with live.gunicorn(workers=1, PROMETHEUS_MULTIPROC_DIR=shared, WSGI_PROM_BIND="off") as server:
        live.drive(server.url, ["/"] * 7)
        own = directory_files.own_directory(tmp_path / "shared")
        figures = DirectoryFigures(own)
        assert 7 == sum(route.requests for route in figures.read().routes.values())
    with live.gunicorn(workers=1, PROMETHEUS_MULTIPROC_DIR=shared, WSGI_PROM_BIND="off") as server:
        live.drive(server.url, ["/"] * 3)
        dropped = {server.url.removeprefix("http://"): QueueTotal(0.0, 7, {})}
        queue_totals.write(own, dropped)
        found = figures.read()
        assert dropped == queue_totals.read(own)
    assert 3 == sum(route.requests for route in found.routes.values())
    # Without an exporter too, by the sockets of the master.
    assert [f"http://{labels['socket']}" for labels, _ in found.samples["wsgi_listen_queue"]] == [server.url]
    assert [7.0] == [count for _, count in found.samples["wsgi_listen_drops"]]
