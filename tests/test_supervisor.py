"""
The exporter's supervisor and serving process: either is killed, stopped or told to end, or the directory is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import exporters
import live
import pytest
import servers

from wsgi_prom.exporter.process.watch import MasterWatch
from wsgi_prom.store import directory, locks
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

SCRAPE_SECONDS = 0.1


class Span(NamedTuple):
    """The monotonic times at which something began and ended."""

    begin: float
    end: float

    def touches(self, other: Span) -> bool:
        return self.begin <= other.end and other.begin <= self.end


class Scrapes:
    """Scrapes during a `with` block, ten a second by default, each on a connection of its own."""

    def __init__(self, server: live.LiveServer, pause: float = SCRAPE_SECONDS) -> None:
        self._url = server.metrics_url
        self._pause = pause
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failed: list[Span] = []
        self.gone_back: list[str] = []
        self.last: live.Samples = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._pause):
            begin = time.monotonic()
            try:
                answer = live.request(self._url)
            except (OSError, HTTPException):
                self.failed.append(Span(begin, time.monotonic()))
                continue
            assert answer.status == 200
            found = live.parse_samples(answer.body.decode())
            self.gone_back += servers.gone_back(self.last, found)
            self.last = found
            self.answered += 1


def kill(server: live.LiveServer, pid: int) -> Span:
    """Kill a process of the exporter, wait until both are there again, and return the span of its death."""
    begin = time.monotonic()
    server.signal_child(pid, signal.SIGKILL)
    assert pid not in live.eventually(live.living, lambda pids: pid not in pids)
    span = Span(begin, time.monotonic())
    servers.supervisor_and_serving(server)
    return span


def stranded(scrapes: Scrapes, kills: list[Span]) -> list[Span]:
    """Return the scrapes that failed and were under way at no kill."""
    return [failed for failed in scrapes.failed if not any(failed.touches(kill) for kill in kills)]


@pytest.fixture(scope="module", params=servers.BOTH)
def running(request: pytest.FixtureRequest) -> Iterator[live.LiveServer]:
    """A server that has counted 20 requests; tests that kill its exporter wait until both processes are there again."""
    with started(request.param) as server:
        live.drive(server.url, ["/"] * 20)
        yield server


@pytest.fixture(scope="module", params=servers.BOTH)
def remade_often(request: pytest.FixtureRequest) -> Iterator[live.LiveServer]:
    """A server whose directory the tests remove and make again."""
    with started(request.param) as server:
        server.samples()
        yield server


@contextlib.contextmanager
def started(name: str) -> Iterator[live.LiveServer]:
    with servers.start(name, workers=2) as server:
        yield server
        folder = servers.shared_directory(server)
        log = server.log()
    assert "Traceback" not in log
    assert 1 == log.count("metrics at")
    assert [] == server.leftovers
    assert not folder.exists()


def test_scrapes_during_restarts_of_the_serving_process(running: live.LiveServer) -> None:
    """Clients that connect while the killed serving process is restarted are answered by the next one."""
    supervisor, _ = servers.supervisor_and_serving(running)
    with Scrapes(running) as scrapes:
        kills = [kill(running, servers.supervisor_and_serving(running)[1]) for _ in range(5)]
        wanted = scrapes.answered + 3
        assert live.eventually(lambda: scrapes.answered, lambda found: found >= wanted) >= wanted
    last = servers.supervisor_and_serving(running)
    assert [] == stranded(scrapes, kills)
    assert len(scrapes.failed) <= 5
    assert [] == scrapes.gone_back
    assert {("/", "200"): 20} == servers.requests_counted(scrapes.last)
    assert last[0] == supervisor
    # No zombie among them.
    assert [last[1]] == running.children(supervisor)
    assert "was ended by SIGKILL; it is restarted\n" in running.log()


def test_no_scrape_notices_that_the_supervisor_is_killed(running: live.LiveServer) -> None:
    """
    If the supervisor is killed, the serving process takes its place; no scrape fails, and the directory has one
    exporter throughout.
    """
    lock_file = LockFile.of(servers.shared_directory(running))
    owners = set()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Scrapes(running, pause=0)) for _ in range(4)]
        for _ in range(3):
            supervisor, serving = servers.supervisor_and_serving(running)
            running.signal_child(supervisor, signal.SIGKILL)
            while running.children(serving) == []:
                owners.add(lock_file.holder(locks.EXPORTER))
            assert serving == servers.supervisor_and_serving(running)[0]
    assert [] == [failed for scrapes in clients for failed in scrapes.failed]
    assert [] == [series for scrapes in clients for series in scrapes.gone_back]
    assert all(scrapes.answered for scrapes in clients)
    assert None not in owners
    assert {("/", "200"): 20} == servers.requests_counted(running.samples())


def test_a_serving_process_that_cannot_start_is_restarted_with_pauses() -> None:
    """
    A serving process that cannot start for lack of descriptors is retried with pauses and two log lines, until it can.
    """
    with live.gunicorn(workers=1) as server:
        supervisor, serving = servers.supervisor_and_serving(server)
        limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
        server.signal_child(serving, signal.SIGKILL)
        # Each lives for a moment only, and leaves its page faults with its parent.
        seen: set[int] = set()

        def ended() -> int:
            seen.add(waited_faults(supervisor))
            return len(seen)

        assert live.eventually(ended, lambda found: found >= 5) >= 5
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
        samples = live.eventually(lambda: scraped(server), bool)
        log = server.log()
    assert ("wsgi_prom_build_info" in {name for name, _ in samples}) is True
    assert 2 == log.count("the exporter's serving process (pid")
    assert 1 == log.count("again within seconds of its start")
    # What each of them says at its start is told no oftener.
    assert 2 >= log.count("Traceback") > 0
    assert 2 >= log.count("no process_* metrics") > 0
    assert [] == server.leftovers


def waited_faults(pid: int) -> int:
    """Return the page faults of the children that *pid* has waited for: cminflt of proc(5)."""
    return int(live.stat_fields(pid)[8])


def scraped(server: live.LiveServer) -> live.Samples:
    try:
        return server.samples()
    except (OSError, HTTPException):
        return {}


def test_a_stopped_process_is_not_taken_for_dead(remade_often: live.LiveServer) -> None:
    """A serving process under SIGSTOP is not restarted, and scrapes wait for it."""
    before = servers.supervisor_and_serving(remade_often)
    remade_often.signal_child(before[1], signal.SIGSTOP)
    with Scrapes(remade_often) as scrapes:
        # A sign that the supervisor has looked at it: it has taken the lock of another directory.
        assert remade(remade_often)
        answered = scrapes.answered
        remade_often.signal_child(before[1], signal.SIGCONT)
        live.eventually(lambda: scrapes.answered, lambda found: found > answered)
    assert before == servers.supervisor_and_serving(remade_often)
    assert [] == scrapes.failed
    assert scrapes.answered > answered


def test_the_lock_is_held_in_a_directory_that_was_made_again(remade_often: live.LiveServer) -> None:
    """The exporter takes the lock of a directory that was made again, and keeps it when the supervisor is killed."""
    folder = servers.shared_directory(remade_often)
    assert remade(remade_often)
    again = serve(folder).stderr
    kill(remade_often, servers.supervisor_and_serving(remade_often)[0])
    second = serve(folder).stderr
    assert LockFile.of(folder).holder(locks.EXPORTER) in servers.supervisor_and_serving(remade_often)
    assert "has an exporter already" in again
    assert "has an exporter already" in second
    assert ("wsgi_prom_build_info" in {name for name, _ in remade_often.samples()}) is True


def test_systemd_tmpfiles_is_kept_out_whichever_is_killed(running: live.LiveServer) -> None:
    """
    The directory has a lock against systemd-tmpfiles from the first answer on, and after a kill of either process.
    """
    folder = servers.shared_directory(running)
    found = []
    for which in (0, 1):
        kill(running, servers.supervisor_and_serving(running)[which])
        running.samples()
        found.append(live.eventually(lambda: tmpfiles_may_clean(folder), lambda may: not may))
    assert [False] * 2 == found


def test_an_exporter_with_the_right_settings_stays_at_a_reload() -> None:
    """A reload keeps an exporter with the right settings, even one whose supervisor was killed before."""
    with live.gunicorn(workers=1) as server:
        kill(server, servers.supervisor_and_serving(server)[0])
        before = servers.supervisor_and_serving(server)
        server.kill(signal.SIGHUP)
        server.wait_for_log("Booting worker", count=2)
        server.samples()
        assert before == servers.supervisor_and_serving(server)


def test_an_exporter_whose_modules_were_replaced_serves_on(tmp_path: Path) -> None:
    """A serving process that cannot become a supervisor logs that, serves on, and ends with its server."""
    package = shutil.copytree(live.ROOT / "wsgi_prom", tmp_path / "wsgi_prom")
    with live.gunicorn(workers=1, PYTHONPATH=f"{tmp_path}:{live.APPS}") as server:
        supervisor, serving = servers.supervisor_and_serving(server)
        package.rename(tmp_path / "removed")
        server.signal_child(supervisor, signal.SIGKILL)
        server.wait_for_log("cannot be executed again, since its modules have been replaced or removed")
        live.drive(server.url, ["/"] * 5)
        assert {("/", "200"): 5} == servers.requests_counted(server.samples())
        assert [serving] == servers.exporter_processes(server)
    assert [] == server.leftovers


def test_sigterm_while_the_serving_process_becomes_the_supervisor_ends_it(tmp_path: Path) -> None:
    """SIGTERM ends a serving process that waits for a slow client before it becomes the supervisor."""
    exporters.fill(tmp_path / "shared", 5_000)
    exporter = exporters.serve(tmp_path / "shared")
    exporter.command += ["--parent", str(os.getpid())]
    with exporter:
        (serving,) = live.eventually(exporter.children, bool)
        with exporters.connect(exporter, window=4096) as client:
            client.sendall(exporters.GET)
            assert client.recv(1)
            exporter.kill(signal.SIGKILL)
            assert live.eventually(lambda: "becomes the supervisor" in exporter.log(), bool)
            exporter.signal_child(serving, signal.SIGTERM)
            assert [] == live.eventually(exporter.processes, lambda pids: not pids)


def stays(folder: Path) -> bool:
    """
    Whether *folder*, that of a server which has ended, is there, until another is started a minute later.

    uWSGI's master runs no Python at its end: with no exporter there is nobody to remove it.
    """
    found = folder.exists()
    if found:
        os.utime(folder, (0, 0))
        directory.sweep(folder.parent / "own")
        # A server that is started meanwhile may be in the middle of removing it.
        assert live.eventually(folder.exists, lambda there: not there) is False
    return found


@pytest.mark.parametrize(
    ("name", "which"), [("gunicorn sync", 0), ("uwsgi prefork", 1)], ids=["supervisor", "serving"]
)
def test_sigterm_of_either_ends_both(name: str, which: int) -> None:
    """SIGTERM to either process ends both, neither is restarted, and the application serves on."""
    with servers.start(name, workers=2, WSGI_PROM_BIND=f"{live.own_host()}:0") as server:
        url = server.metrics_url
        folder = servers.shared_directory(server)
        server.signal_child(servers.supervisor_and_serving(server)[which], signal.SIGTERM)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        with pytest.raises(OSError, match="refused"):
            live.request(url)
        status = server.get("/").status
        log = server.log()
    assert [] == left
    assert status == 200
    assert "restarted" not in log
    assert [] == server.leftovers
    assert stays(folder) is name.startswith("uwsgi")


@pytest.mark.parametrize(
    ("name", "killed"),
    [("gunicorn sync", "supervisor"), ("uwsgi prefork", "supervisor"), ("uwsgi prefork", "both")],
)
def test_a_server_killed_together_with_its_exporter_leaves_nothing_running(name: str, killed: str) -> None:
    """
    If master and supervisor are killed, the serving process removes the directory; if all three are killed, nothing
    runs on.
    """
    options = ("--timeout", "2") if name.startswith("gunicorn") else ("--no-orphans",)
    with servers.start(name, *options, workers=2) as server:
        folder = servers.shared_directory(server)
        supervisor, serving = servers.supervisor_and_serving(server)
        server.kill(signal.SIGKILL)
        os.kill(supervisor, signal.SIGKILL)
        if killed == "both":
            with contextlib.suppress(
                ProcessLookupError
            ):  # the supervisor has told it to end, in its last millisecond
                os.kill(serving, signal.SIGKILL)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        if killed == "supervisor":
            assert live.eventually(folder.exists, lambda found: not found) is False
    shutil.rmtree(folder, ignore_errors=True)
    assert [] == left
    assert [] == server.leftovers


def test_a_serving_process_that_is_told_to_end_removes_the_directory() -> None:
    """The serving process removes the directory even if its supervisor is killed after telling it to end."""
    with live.gunicorn(workers=1) as server:
        folder = servers.shared_directory(server)
        supervisor, serving = servers.supervisor_and_serving(server)
        server.signal_child(supervisor, signal.SIGSTOP)
        server.kill(signal.SIGKILL)
        server.wait()
        # The supervisor does no more than this before it is killed.
        server.signal_child(serving, signal.SIGTERM)
        assert live.eventually(folder.exists, lambda found: not found) is False
        server.signal_child(supervisor, signal.SIGKILL)
        left = live.eventually(server.processes, lambda pids: not pids)
    assert [] == left


def test_a_server_that_cannot_start_leaves_nothing() -> None:
    """
    A gunicorn whose application fails at import, again and again under systemd, leaves no directory and no exporter.
    """
    with live.gunicorn("unbootable:app", workers=1) as server:
        folder = Path(server.wait_for_log(r"shares (\S+)")[1])
        status = server.wait()
        left = live.eventually(server.processes, lambda pids: not pids)
        found = folder.exists()
    assert status == 3  # gunicorn's own, for workers that cannot boot
    assert [] == left
    assert found is False


def test_an_exporter_that_comes_after_its_server_makes_nothing(tmp_path: Path) -> None:
    """An exporter that comes up after its server's directory is gone ends silently."""
    path = tmp_path / directory.name_temporary().name
    with subprocess.Popen([sys.executable, "-c", ""]) as server:
        pass
    done = serve(path, "--parent", str(server.pid))
    assert (0, "") == (done.returncode, done.stderr)
    assert [] == list(tmp_path.iterdir())


def test_an_exporter_of_a_living_server_makes_what_was_removed(tmp_path: Path) -> None:
    """An exporter makes its directory again if that was removed before it came up, while its server lives."""
    path = tmp_path / directory.name_temporary().name
    command_line = [*exporters.command(path), "--parent", str(os.getpid())]
    with live.LiveServer(command_line, ready=(live.METRICS_LINE, 1)) as exporter:
        samples = exporter.samples()
        exporter.kill(signal.SIGTERM)
        assert exporter.wait() == 0
        # It is this process's, which lives on.
        found = path.exists()
    assert ("wsgi_prom_build_info" in {name for name, _ in samples}) is True
    assert found is True


@pytest.mark.parametrize("name", servers.BOTH)
def test_an_exporter_that_ends_leaves_a_directory_that_was_made_again(name: str) -> None:
    """An exporter that ends does not remove a directory that was made again while its server is alive."""
    with servers.start(name, workers=2) as server:
        live.drive(server.url, ["/"] * 20)
        folder = servers.shared_directory(server)
        assert remade(server)
        server.signal_child(servers.supervisor_and_serving(server)[0], signal.SIGTERM)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        found = folder.exists()
    assert [] == left
    assert found is True
    stays(folder)


def remade(server: live.LiveServer) -> bool:
    """
    Remove the directory of *server*, make it again as a worker does, and return whether its exporter is seen there.
    """
    folder = servers.shared_directory(server)
    servers.remove(folder)
    lock_file = directory.prepare(folder)
    found = live.eventually(lambda: lock_file.holder(locks.EXPORTER), lambda pid: pid is not None)
    return found in servers.supervisor_and_serving(server)


def serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*exporters.command(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=live.ROOT,
    )


def tmpfiles_may_clean(folder: Path) -> bool:
    """Return whether systemd-tmpfiles could lock the directory, without which it does not look inside."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def directory_of(server: live.LiveServer) -> Path:
    """Return the directory of a *server* that has no exporter to tell it: its master has the lock file open."""
    found = set()
    for fd in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(fd.readlink())
    (folder,) = {path.parent for path in found if path.name == locks.NAME}
    return folder


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_server_without_an_exporter_serves(name: str) -> None:
    """With the exporter off, none is started, and the log does not mention it."""
    with servers.start(name, workers=2, WSGI_PROM_BIND="off") as server:
        status = server.get("/").status
        folder = directory_of(server)
        found = servers.exporter_processes(server)
        log = server.log()
    assert [] == found
    assert status == 200
    assert "wsgi_prom: " not in log
    assert [] == server.leftovers
    assert stays(folder) is name.startswith("uwsgi")


def test_by_hand_it_is_one_process(tmp_path: Path) -> None:
    """`wsgi-prom serve` is one process, so that a service manager watches the right one."""
    tmp_path.chmod(0o700)
    with live.LiveServer(exporters.command(tmp_path), ready=(live.METRICS_LINE, 1)) as exporter:
        exporter.samples()
        found = exporter.processes()
        pid = exporter.pid
        may_clean = tmpfiles_may_clean(tmp_path)
        exporter.kill(signal.SIGTERM)
        status = exporter.wait()
    assert [pid] == found
    assert may_clean is False
    assert status == 0


@pytest.mark.parametrize("pidfd", [True, False])
def test_the_end_of_a_process_is_seen(*, pidfd: bool) -> None:
    """The end of a process is seen by a pidfd or, where there are none, by its pid."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        watch = MasterWatch(process.pid, list)
        with contextlib.ExitStack() as stack:
            if not pidfd:
                stack.callback(os.close, watch.fd)
                watch.fd = None
            before = watch.ended()
            process.kill()
            process.wait()
            after = watch.ended()
    assert (before, after) == (False, True)
    assert MasterWatch(process.pid, list).ended() is True


def test_the_server_has_ended_when_its_last_master_has() -> None:
    """The masters of the directory are watched one after the other; one in another pid namespace is seen by its lock alone."""
    masters = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    others = [masters[1].pid]
    watch = MasterWatch(masters[0].pid, lambda: others)
    seen = [watch.ended()]
    for master in masters:
        master.kill()
        master.communicate()
        if master is masters[1]:
            others[:] = [0]
        seen.append(watch.ended())
    others.clear()
    assert [False, False, False, True] == [*seen, watch.ended()]


# A supervisor whose *clock* is the second argument, and whose serving process only waits.
SUPERVISED = """
import itertools, logging, os, signal, sys
from pathlib import Path
from wsgi_prom.exporter.http.listening import Listening
from wsgi_prom.exporter.process.lock import ExporterLock
from wsgi_prom.exporter.process.supervisor import Supervisor
from wsgi_prom.exporter.process.watch import MasterWatch
from wsgi_prom.setting_values import Address
from wsgi_prom.store import directory

logging.basicConfig(stream=sys.stderr, format="wsgi_prom: %(message)s")
path = Path(sys.argv[1])
lock = ExporterLock(path, directory.prepare(path))
lock.take()
Supervisor(
    lock,
    MasterWatch(os.getppid(), lock.servers),
    lambda: Listening(Address("127.0.0.1", 0)),
    lambda listening: lambda: signal.sigwait({signal.SIGTERM}),
    clock=eval(sys.argv[2]),
).run()
"""


@pytest.mark.parametrize(
    ("clock", "logged"),
    [("lambda: 0.0", ["", ", again"]), ("itertools.count(0, 60).__next__", [""] * 5)],
    ids=["at once", "a minute later"],
)
def test_kills_that_follow_at_once_are_logged_twice(clock: str, logged: list[str], tmp_path: Path) -> None:
    """Of kills in quick succession two are logged; a kill of a process that had lived long is always logged."""
    with live.LiveServer([sys.executable, "-c", SUPERVISED, tmp_path / "shared", clock]) as server:
        for _ in range(5):
            (serving,) = live.eventually(server.children, bool)
            server.signal_child(serving, signal.SIGKILL)
            live.eventually(server.children, lambda pids, killed=serving: pids and killed not in pids)
        log = server.log()
    assert logged == re.findall(r"was ended by SIGKILL(, again)?", log)
    assert [] == server.leftovers
