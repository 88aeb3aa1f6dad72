"""The exporter as a process of its own: whose child it is, what it gets from its server, its address, its replacement."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import exporters
import live
import pytest
import servers
from servers import value

from wsgi_prom.exporter.http.listening import AddressInUseError, Listening
from wsgi_prom.exporter.process.launch import was_lost
from wsgi_prom.setting_values import Address
from wsgi_prom.store import directory, locks

if TYPE_CHECKING:
    from collections.abc import Iterator

# What an agent of tracing puts on the path of every Python that is started below it.
AGENT = "import os; open(os.environ['AGENT_LOG'], 'a').write(f'{os.getpid()}\\n')"


class Agents(NamedTuple):
    """The server called *name*, in whose Pythons an agent starts and writes their pids to *log*."""

    name: str
    server: live.LiveServer
    log: Path


def zombies(pid: int) -> list[int]:
    """Return the children of *pid* that have ended and that it has not asked for."""
    children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [child for child in children if live.parent(child) == pid and live.stat_fields(child)[0] == "Z"]


@pytest.fixture(scope="module", params=servers.BOTH)
def agents(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """A server with a sitecustomize on its path, by which ddtrace, New Relic and OpenTelemetry start in every Python."""
    folder = tmp_path_factory.mktemp("agents")
    (folder / "sitecustomize.py").write_text(AGENT)
    log = folder / "agent.log"
    path = f"{folder}:{live.ROOT}:{live.APPS}"
    with servers.start(request.param, workers=2, PYTHONPATH=path, AGENT_LOG=str(log)) as server:
        yield Agents(request.param, server, log)
    assert [] == server.leftovers


def test_the_children_of_a_master_are_its_workers(agents: Agents) -> None:
    """Who counts them (Airflow's webserver, Datadog's gunicorn check) finds no exporter, and no zombie, among them."""
    server = agents.server
    supervisor, _ = servers.supervisor_and_serving(server)
    workers = server.workers()
    assert 2 == len(workers)
    assert workers == server.children()
    assert [] == zombies(server.pid)
    assert live.parent(supervisor) not in {server.pid, *workers}
    # uWSGI says so of each child that ends and is no worker.
    assert "subprocess" not in server.log()


def test_the_page_and_the_log_say_whose_metrics_they_are(agents: Agents) -> None:
    """By the application, the server, its pid and its directory."""
    server = agents.server
    supervisor, _ = servers.supervisor_and_serving(server)
    folder = servers.shared_directory(server)
    kind = agents.name.split(maxsplit=1)[0].replace("uwsgi", "uWSGI")
    labels = {"application": "plain:app", "server": kind, "pid": str(server.pid), "directory": str(folder)}
    assert 1 == value(server.samples(), "wsgi_prom_target_info", **labels)
    assert re.search(
        rf"(?m)^\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[{supervisor}\] \[INFO\] wsgi_prom: metrics at \S+ \(of the directory {folder}\)$",
        server.log(),
    )


def test_no_agent_starts_in_the_exporter(agents: Agents) -> None:
    """It would trace the exporter, and start threads in a process that forks."""
    found = {*servers.supervisor_and_serving(agents.server)}
    samples = agents.server.samples()
    started = {int(line) for line in agents.log.read_text().split()}
    assert agents.server.pid in started
    assert set() == found & started
    assert ("wsgi_prom_build_info" in {name for name, _ in samples}) is True


@pytest.mark.parametrize("name", servers.BOTH)
def test_an_address_that_another_process_has_is_taken_when_it_is_free(name: str) -> None:
    """One line says that it is in use; the application is served, and its metrics as soon as they can be."""
    with socket.create_server((live.own_host(), 0)) as taken:
        port = taken.getsockname()[1]
        with servers.start(name, workers=2, WSGI_PROM_BIND=f"{live.own_host()}:{port}") as server:
            server.wait_for_log(r"in use.*retrying every 5 s\n")
            live.drive(server.url, ["/"] * 10)
            taken.close()
            counted = servers.requests_counted(server.samples())
            log = server.log()
    assert {("/", "200"): 10} == counted
    assert f":{port}/metrics" in server.log()
    assert log.count("in use") == 1
    assert "Traceback" not in log
    assert [] == server.leftovers


@pytest.mark.parametrize("name", servers.BOTH)
def test_an_exporter_that_waits_for_its_address_ends_with_its_server(name: str, tmp_path: Path) -> None:
    """A unix socket that another process answers, and goes on answering; the directory goes with the server."""
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        with servers.start(name, workers=2, WSGI_PROM_BIND=f"unix:{path}") as server:
            server.wait_for_log(r"in use.*retrying every 5 s\n")
            (pid,) = servers.exporter_processes(server)
            folder = Path(re.findall(r"--directory (\S+)", live.command_line(pid))[0])
            status = server.get("/").status
        found = path.exists()
    assert 200 == status
    assert [] == server.leftovers
    assert folder.exists() is False
    assert found is True


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_unix_socket_goes_with_its_server(end: signal.Signals, tmp_path: Path) -> None:
    """In order, and where the server was killed."""
    path = tmp_path / "metrics.sock"
    with live.gunicorn("plain:app", "--timeout", "2", workers=1, WSGI_PROM_BIND=f"unix:{path}") as server:
        server.wait_for_log("metrics at unix:")
        before = path.exists()
        server.kill(end)
        after = live.eventually(path.exists, lambda found: not found)
    assert (before, after) == (True, False)


def test_a_unix_socket_of_another_exporter_stays(tmp_path: Path) -> None:
    """One that has been bound in its place is not removed by the one before, and takes no connection of the other's."""
    path = tmp_path / "metrics.sock"
    first = Listening(Address(path=str(path)))
    with pytest.raises(AddressInUseError, match="in use"):
        Listening(Address(path=str(path)))
    path.unlink()
    second = Listening(Address(path=str(path)))
    first.close()
    kept = path.exists()
    second.close()
    assert (kept, path.exists()) == (True, False)


def test_a_port_leaves_the_umask_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page at a port is opened beside threads of the application, whose files get the modes that it asks for."""
    changed: list[int] = []
    monkeypatch.setattr(os, "umask", lambda mask: changed.append(mask) or 0o022)
    Listening(Address("127.0.0.1", 0)).close()
    assert [] == changed


def test_a_socket_in_a_directory_that_is_missing(tmp_path: Path) -> None:
    """The error of a unix socket whose directory is missing says to make that."""
    with pytest.raises(
        AddressInUseError, match=r"No such file or directory\. Make the directory of the socket, or set"
    ):
        Listening(Address(path=str(tmp_path / "none" / "metrics.sock")))


def gunicorn_settings(folder: Path, **variables: str) -> None:
    given = [f"{name}={value}" for name, value in variables.items()]
    (folder / "gunicorn.conf.py").write_text(f"from wsgi_prom.hooks.gunicorn import *\nraw_env = {given}\n")


def uwsgi_settings(folder: Path, **variables: str) -> None:
    lines = [f"env = {name}={value}\n" for name, value in variables.items()]
    (folder / "uwsgi.ini").write_text("[uwsgi]\n" + "".join(lines))


def hang_up(server: live.LiveServer) -> live.LiveServer:
    server.kill(signal.SIGHUP)
    return server


def replace_arbiter(server: live.LiveServer) -> None:
    server.kill(signal.SIGUSR2)
    server.wait_for_log(r"Booting worker with pid", count=2)
    server.wait_for_log(live.METRICS_LINE, count=2)
    server.kill(signal.SIGTERM)


RELOADS = {
    "gunicorn HUP": (gunicorn_settings, hang_up),
    "gunicorn USR2": (gunicorn_settings, replace_arbiter),
    "uwsgi SIGHUP": (uwsgi_settings, hang_up),
}


@contextlib.contextmanager
def configured(way: str, folder: Path, **variables: str):
    """Start the server of *way* with settings that its configuration file has, and can have otherwise later."""
    RELOADS[way][0](folder, **variables)
    with contextlib.closing(live.hold_port()) as held:
        if way.startswith("gunicorn"):
            server = live.gunicorn(workers=1, config=str(folder / "gunicorn.conf.py"), WSGI_PROM_BIND=None)
        else:
            ini = ("--ini", str(folder / "uwsgi.ini"))
            server = live.uwsgi(*ini, workers=1, port=held.getsockname()[1], WSGI_PROM_BIND=None)
        with server:
            yield server
            # The arbiter of USR2 is no child of the test's.
            for pid in {int(pid) for pid in re.findall(r"Listening at: .* \((\d+)\)", server.log())} - {
                server.pid
            }:
                with contextlib.suppress(ValueError):
                    server.signal_child(pid, signal.SIGTERM)


@pytest.mark.parametrize("way", RELOADS)
def test_a_reload_applies_the_settings_of_the_exporter(way: str, tmp_path: Path) -> None:
    """
    The exporter asks for the new token at the new address, the counters go on, and the old address is free.

    Once more, after both processes of the exporter were killed, it starts another; and once more, with a mistake, it ends it.
    """
    settings, reload = RELOADS[way]
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    with contextlib.closing(live.hold_port()) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with configured(way, tmp_path, WSGI_PROM_BIND="127.0.0.1:0") as server:
            live.drive(server.url, ["/"] * 10)
            before = server.metrics_url
            counted = servers.requests_counted(server.samples())
            settings(tmp_path, WSGI_PROM_BIND=address, WSGI_PROM_TOKEN_FILE=str(token))
            reload(server)
            server.wait_for_log(rf"metrics at http://{address}/")
            bare = live.request(f"http://{address}/metrics").status
            credentials = {"Authorization": f"Bearer {token.read_text()}"}
            page = live.request(f"http://{address}/metrics", headers=credentials).body.decode()
            live.eventually(lambda: servers.exporters(server), lambda pids: len(pids) == 1)
            with pytest.raises(OSError, match="refused"):
                live.request(before)
            if way != "gunicorn USR2":
                servers.kill_exporter(server)
                hang_up(server).wait_for_log(live.METRICS_LINE, count=3)
                again = live.request(f"http://{address}/metrics", headers=credentials).body.decode()
                assert counted == servers.requests_counted(live.parse_samples(again))
                settings(tmp_path, WSGI_PROM_BIND=address, WSGI_PROM_TOKEN_FILE=str(tmp_path / "none"))
                reload(server)
                server.wait_for_log(r"WSGI_PROM_TOKEN_FILE=.* cannot be read")
                left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
                assert [] == left
    assert 401 == bare
    assert {("/", "200"): 10} == counted == servers.requests_counted(live.parse_samples(page))
    assert "Traceback" not in server.log()
    assert [] == server.leftovers


def test_an_exporter_that_a_reload_calls_off_before_it_is_up_ends(tmp_path: Path) -> None:
    """It has no place by which it could be seen: HUP at once after the start, with the exporter off by then."""
    with configured("gunicorn HUP", tmp_path, WSGI_PROM_BIND="127.0.0.1:0") as server:
        gunicorn_settings(tmp_path, WSGI_PROM_BIND="off")
        hang_up(server).wait_for_log("Booting worker", count=2)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        status = server.get("/").status
    assert [] == left
    assert 200 == status
    assert [] == server.leftovers


@pytest.mark.parametrize("how", [[], ["--replace"]], ids=["started", "replacing"])
def test_an_exporter_leaves_the_place_to_one_that_was_started_later(how: list[str], tmp_path: Path) -> None:
    """Of two that come up at once, the one with the settings of the last reload serves, whichever is the faster."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    directory.prepare(shared).set_number(locks.LAUNCHED, 2)
    command = [*exporters.command(shared), "--parent", str(os.getpid()), "--launch", "1", *how]
    with live.LiveServer(command) as former:
        assert (0, "") == (former.wait(), former.log())
        with exporters.serve(shared) as later:
            assert 200 == live.request(later.metrics_url).status


def test_an_exporter_is_lost_when_it_has_been_up_and_is_gone(tmp_path: Path) -> None:
    """
    Not while it starts, so that a worker which starts meanwhile launches no other.

    And not after it was told to end, or called off.
    """
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    lock_file = directory.prepare(shared)
    lost = [was_lost(lock_file)]
    lock_file.set_number(locks.LAUNCHED, 1)
    lost.append(was_lost(lock_file))
    for end in (signal.SIGTERM, signal.SIGKILL):
        exporter = exporters.serve(shared)
        exporter.command += ["--launch", "1"]
        with exporter:
            lost.append(was_lost(lock_file))
            exporter.kill(end)
            exporter.wait()
            lost.append(was_lost(lock_file))
    lock_file.set_number(locks.LAUNCHED, 2)
    lost.append(was_lost(lock_file))
    assert [False, False, False, False, False, True, False] == lost


def test_a_scrape_that_has_begun_is_finished_by_an_exporter_that_is_replaced(tmp_path: Path) -> None:
    """The next one has the address meanwhile; who reads from the former one gets all of its page."""
    exporters.fill(tmp_path / "shared", 5_000)
    with exporters.serve(tmp_path / "shared") as first, exporters.connect(first, window=4096) as client:
        host, port = exporters.address(first)
        client.sendall(exporters.GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        page = client.recv(1024)
        second = exporters.serve(tmp_path / "shared", f"{host}:{port}")
        second.command.append("--replace")
        with second:
            page += exporters.until_closed(client)
            other = live.request(second.metrics_url).status
        status = first.wait()
    length = int(re.search(rb"Content-Length: (\d+)", page)[1])
    assert (200, 0) == (other, status)
    assert length == len(page.partition(b"\r\n\r\n")[2])
