"""The exporter as a pair: either of the two killed, stopped or told to end, and the directory taken from under it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import live
import pytest
import servers

from wsgi_prom.exporter.process.life import Life
from wsgi_prom.store import directory, locks
from wsgi_prom.store.locks import Locks

if TYPE_CHECKING:
    from typing import Self

SCRAPE_SECONDS = 0.1


class Span(NamedTuple):
    """From when to when something was under way, by the monotonic clock."""

    begin: float
    end: float

    def touches(self, other: Span) -> bool:
        return self.begin <= other.end and other.begin <= self.end


class Scrapes:
    """Scrapes for the length of a block, ten a second by default, each on a connection of its own."""

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
    """Kill one of the pair, wait until it is whole again, and return from when to when it died."""
    begin = time.monotonic()
    server.signal_child(pid, signal.SIGKILL)
    assert pid not in live.eventually(live.living, lambda pids: pid not in pids)
    span = Span(begin, time.monotonic())
    servers.pair(server)
    return span


def stranded(scrapes: Scrapes, kills: list[Span]) -> list[Span]:
    """Return the scrapes that failed and were under way at no kill."""
    return [failed for failed in scrapes.failed if not any(failed.touches(kill) for kill in kills)]


@pytest.mark.parametrize("name", servers.BOTH)
def test_the_process_that_answers_is_killed_twenty_times(name: str) -> None:
    """SIGKILL of the exporter, again and again, with no traffic: who connects meanwhile is answered by the next one."""
    with servers.start(name, workers=2) as server:
        live.drive(server.url, ["/"] * 20)
        guard, _ = servers.pair(server)
        kills = []
        with Scrapes(server) as scrapes:
            kills += [kill(server, servers.pair(server)[1]) for _ in range(20)]
            wanted = scrapes.answered + 3
            assert live.eventually(lambda: scrapes.answered, lambda found: found >= wanted) >= wanted
        last = servers.pair(server)
        children = server.children(guard)
        log = server.log()
        status = server.get("/").status

    assert [] == stranded(scrapes, kills)
    assert len(scrapes.failed) <= 20
    assert [] == scrapes.gone_back
    assert {("/", "200"): 20} == servers.requests_counted(scrapes.last)
    assert last[0] == guard
    # No zombie among them.
    assert [last[1]] == children
    assert "was ended by SIGKILL; it is started again\n" in log
    assert "Traceback" not in log
    assert status == 200
    assert [] == server.leftovers


@pytest.mark.parametrize("name", servers.BOTH)
def test_guard_and_answering_process_are_killed_in_turn(name: str) -> None:
    """SIGKILL of the guard: who answered guards a new one, on the same socket; and so on, ten times each."""
    with servers.start(name, workers=2) as server:
        live.drive(server.url, ["/"] * 20)
        metrics_url = server.metrics_url
        kills = []
        with Scrapes(server) as scrapes:
            for _ in range(10):
                guard, answering = servers.pair(server)
                kill(server, guard)
                assert servers.pair(server)[0] == answering
                kills.append(kill(server, servers.pair(server)[1]))
            wanted = scrapes.answered + 3
            assert live.eventually(lambda: scrapes.answered, lambda found: found >= wanted) >= wanted
        folder = servers.shared_directory(server)
        log = server.log()

    # Of the guard's deaths no scrape notices anything.
    assert [] == stranded(scrapes, kills)
    assert len(scrapes.failed) <= 10
    assert [] == scrapes.gone_back
    assert {("/", "200"): 20} == servers.requests_counted(scrapes.last)
    assert log.count("metrics at") == 1
    assert metrics_url in log
    assert "Traceback" not in log
    assert [] == server.leftovers
    assert not folder.exists()


@pytest.mark.parametrize("name", servers.BOTH)
def test_no_scrape_notices_that_the_guard_is_killed(name: str) -> None:
    """Under clients that never pause: who takes the guard's place finishes the answers that it has begun."""
    with servers.start(name, workers=2) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Scrapes(server, pause=0)) for _ in range(4)]
        for _ in range(10):
            kill(server, servers.pair(server)[0])
        stack.close()
        log = server.log()
    assert [] == [failed for scrapes in clients for failed in scrapes.failed]
    assert all(scrapes.answered for scrapes in clients)
    assert log.count("has died; pid") == 10
    assert "Traceback" not in log


# A socket that is no more, so that whoever is to answer on it dies at its start.
HOPELESS = """
import logging, os, socket, sys
from pathlib import Path
from wsgi_prom.exporter.process.guard import Guard
from wsgi_prom.exporter.process.place import Place
from wsgi_prom.store import directory

logging.basicConfig(stream=sys.stderr, format="wsgi_prom: %(message)s")
listening = socket.socket()
listening.close()
path = Path(sys.argv[1])
place = Place(path, directory.prepare(path))
place.take()
Guard(place, lambda: listening, lambda _: listening.listen(), os.getppid()).run()
"""


def test_a_process_that_cannot_start_is_started_again_with_pauses(tmp_path: Path) -> None:
    """It is said three times and no more, goes on with pauses, and still ends when it is told to."""
    tmp_path.chmod(0o700)
    with live.LiveServer(
        [sys.executable, "-c", HOPELESS, str(tmp_path)], ready=("for the 3rd time", 1)
    ) as server:
        seen: set[int] = set()

        def started() -> int:
            seen.update(server.children())
            return len(seen)

        assert live.eventually(started, lambda found: found >= 3) >= 3
        server.kill(signal.SIGTERM)
        status = server.wait()
        log = server.log()
    assert status == 0
    assert log.count("the exporter failed") == log.count("Traceback") == 3
    assert log.count("ended with status 1") == 3
    assert [] == server.leftovers


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


@pytest.mark.parametrize("which", [0, 1], ids=["guard", "answering"])
@pytest.mark.parametrize("name", servers.BOTH)
def test_sigterm_of_either_ends_both(name: str, which: int) -> None:
    """Who is told to end takes the other along, nobody comes back, and the application serves on."""
    with servers.start(name, workers=2) as server:
        url = server.metrics_url
        folder = servers.shared_directory(server)
        server.signal_child(servers.pair(server)[which], signal.SIGTERM)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        with pytest.raises(OSError, match="refused"):
            live.request(url)
        status = server.get("/").status
        log = server.log()
    assert [] == left
    assert status == 200
    assert "again" not in log
    assert [] == server.leftovers
    assert stays(folder) is name.startswith("uwsgi")


@pytest.mark.parametrize("killed", ["guard", "guard and answering"])
@pytest.mark.parametrize("name", servers.BOTH)
def test_a_server_killed_together_with_its_exporter_leaves_nothing_running(name: str, killed: str) -> None:
    """SIGKILL of the master and the guard: the other one sees to the end. Of all three: nothing is left to run."""
    options = ("--timeout", "2") if name.startswith("gunicorn") else ("--no-orphans",)
    with servers.start(name, *options, workers=2) as server:
        folder = servers.shared_directory(server)
        guard, answering = servers.pair(server)
        server.kill(signal.SIGKILL)
        os.kill(guard, signal.SIGKILL)
        if killed != "guard":
            with contextlib.suppress(
                ProcessLookupError
            ):  # the guard has told it to end, in its last millisecond
                os.kill(answering, signal.SIGKILL)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        if killed == "guard":
            assert live.eventually(folder.exists, lambda found: not found) is False
    shutil.rmtree(folder, ignore_errors=True)
    assert [] == left
    assert [] == server.leftovers


def test_who_is_told_to_end_clears_up_whatever_becomes_of_the_guard() -> None:
    """A guard that is killed after it has told the other one to end has left nothing for anybody to do."""
    with live.gunicorn(workers=1) as server:
        folder = servers.shared_directory(server)
        guard, answering = servers.pair(server)
        server.signal_child(guard, signal.SIGSTOP)
        server.kill(signal.SIGKILL)
        server.wait()
        # In the place of the guard, which does no more than this in time.
        server.signal_child(answering, signal.SIGTERM)
        assert live.eventually(folder.exists, lambda found: not found) is False
        server.signal_child(guard, signal.SIGKILL)
        left = live.eventually(server.processes, lambda pids: not pids)
    assert [] == left


def test_a_server_that_cannot_start_leaves_nothing() -> None:
    """An application that fails at import ends gunicorn before its exporter has begun: again and again, under systemd."""
    with live.gunicorn("unbootable:app", workers=1) as server:
        folder = Path(server.wait_for_log(r"shares (\S+)")[1])
        status = server.wait()
        left = live.eventually(server.processes, lambda pids: not pids)
        found = folder.exists()
    assert status == 3  # gunicorn's own, for workers that cannot boot
    assert [] == left
    assert found is False


def test_an_exporter_that_comes_after_its_server_makes_nothing(tmp_path: Path) -> None:
    """Where the directory of one server is gone, it says nothing and ends."""
    path = tmp_path / directory.name_temporary().name
    with subprocess.Popen([sys.executable, "-c", ""]) as server:
        pass
    done = serve(path, "--parent", str(server.pid))
    assert (0, "") == (done.returncode, done.stderr)
    assert [] == list(tmp_path.iterdir())


def test_an_exporter_of_a_living_server_makes_what_was_removed(tmp_path: Path) -> None:
    """Whoever removes the directory before it has come up, in the first half of a second, does not keep it from serving."""
    path = tmp_path / directory.name_temporary().name
    command = [*serving(path), "--parent", str(os.getpid())]
    with live.LiveServer(command, ready=(live.METRICS_LINE, 1)) as exporter:
        samples = exporter.samples()
        exporter.kill(signal.SIGTERM)
        assert exporter.wait() == 0
        # It is this process's, which lives on.
        found = path.exists()
    assert ("wsgi_prom_build_info" in {name for name, _ in samples}) is True
    assert found is True


@pytest.mark.parametrize("name", servers.BOTH)
def test_an_exporter_that_ends_leaves_a_directory_that_was_made_again(name: str) -> None:
    """Its server is alive, and has its place in the lock file of before."""
    with servers.start(name, workers=2) as server:
        live.drive(server.url, ["/"] * 20)
        folder = servers.shared_directory(server)
        assert remade(server)
        server.signal_child(servers.pair(server)[0], signal.SIGTERM)
        left = live.eventually(lambda: servers.exporter_processes(server), lambda pids: not pids)
        found = folder.exists()
    assert [] == left
    assert found is True
    stays(folder)


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_stopped_process_is_not_taken_for_dead(name: str) -> None:
    """SIGSTOP of the one that answers: nobody takes its place, scrapes wait for it, and the server can still end."""
    with servers.start(name, workers=2) as server:
        server.samples()
        before = servers.pair(server)
        server.signal_child(before[1], signal.SIGSTOP)
        with Scrapes(server) as scrapes:
            # A sign that the guard has gone round: it takes a place in what is there now.
            assert remade(server)
            answered = scrapes.answered
            server.signal_child(before[1], signal.SIGCONT)
            live.eventually(lambda: scrapes.answered, lambda found: found > answered)
        after = servers.pair(server)
        server.signal_child(after[1], signal.SIGSTOP)
    assert before == after
    assert [] == scrapes.failed
    assert scrapes.answered > answered
    assert [] == server.leftovers


def remade(server: live.LiveServer) -> bool:
    """Remove the directory of *server* and make it again, as a worker does; whether its exporter is seen in it then."""
    folder = servers.shared_directory(server)
    shutil.rmtree(folder)
    lock_file = directory.prepare(folder)
    found = live.eventually(lambda: lock_file.holder(locks.EXPORTER), lambda pid: pid is not None)
    return found in servers.pair(server)


@pytest.mark.parametrize("name", servers.BOTH)
def test_the_place_is_held_in_a_directory_that_was_made_again(name: str) -> None:
    """Another lock file: the exporter takes it, answers, hands it on when one of the two is killed, and cleans up."""
    with servers.start(name, workers=2) as server:
        server.samples()
        folder = servers.shared_directory(server)
        assert remade(server)
        guard, _ = servers.pair(server)
        again = serve(folder).stderr
        kill(server, guard)
        second = serve(folder).stderr
        found = Locks.of(folder).holder(locks.EXPORTER)
        assert found in servers.pair(server)
        samples = server.samples()
        locked = live.eventually(lambda: tmpfiles_may_clean(folder), lambda found: not found)
    assert "has an exporter already" in again
    assert "has an exporter already" in second
    assert ("wsgi_prom_build_info" in {name for name, _ in samples}) is True
    assert locked is False
    assert [] == server.leftovers
    assert not folder.exists()


def serving(folder: Path) -> list[str]:
    return [sys.executable, "-m", "wsgi_prom", "serve", "--directory", str(folder), "--bind", "127.0.0.1:0"]


def serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*serving(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=live.ROOT)


def tmpfiles_may_clean(folder: Path) -> bool:
    """Whether systemd-tmpfiles could take its lock, without which it does not look into the directory."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_systemd_tmpfiles_is_kept_out_whichever_is_killed() -> None:
    """The lock on the directory is there from the first answer on, and outlives the guard and the other one."""
    with live.gunicorn(workers=1) as server:
        server.samples()
        folder = servers.shared_directory(server)
        found = [tmpfiles_may_clean(folder)]
        for which in (0, 1):
            kill(server, servers.pair(server)[which])
            server.samples()
            found.append(tmpfiles_may_clean(folder))
    assert [False] * 3 == found


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
    """None is started where none is wanted, and nothing is said of it."""
    with servers.start(name, workers=2, WSGI_PROM_BIND="off") as server:
        status = server.get("/").status
        folder = directory_of(server)
        exporters = servers.exporter_processes(server)
        log = server.log()
    assert [] == exporters
    assert status == 200
    assert "wsgi_prom: " not in log
    assert [] == server.leftovers
    assert stays(folder) is name.startswith("uwsgi")


def test_by_hand_it_is_one_process(tmp_path: Path) -> None:
    """wsgi-prom serve without a parent forks nothing: its own keeper would take the wrong one for it."""
    tmp_path.chmod(0o700)
    with live.LiveServer(serving(tmp_path), ready=(live.METRICS_LINE, 1)) as exporter:
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
    """By a descriptor of it or, where the system has none, by its entry in /proc."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        life = Life(process.pid)
        with contextlib.ExitStack() as stack:
            if not pidfd:
                stack.callback(os.close, life.fd)
                life.fd = None
            before = life.over()
            process.kill()
            process.wait()
            after = life.over()
        life.close()
    assert (before, after) == (False, True)
    assert Life(process.pid).over() is True


# A guard whose *clock* is the second argument.
GUARDED = """
import itertools, logging, os, sys, time
from pathlib import Path
from wsgi_prom.exporter.http import listener
from wsgi_prom.exporter.access import Access
from wsgi_prom.exporter.process.guard import Guard
from wsgi_prom.exporter.http.listener import Listening
from wsgi_prom.exporter.process.place import Place
from wsgi_prom.settings import Address, Settings
from wsgi_prom.store import directory

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("slow", flush=True)
        time.sleep(6)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

logging.basicConfig(stream=sys.stderr, format="wsgi_prom: %(message)s")
path = Path(sys.argv[1])
place = Place(path, directory.prepare(path))
place.take()
admission = listener.Admission(Access(Settings()))
listening = Listening(Address("127.0.0.1", 0))
print("metrics at", listening.url(), flush=True)
Guard(
    place,
    lambda: listening,
    lambda _: listener.server(app, listening.socket.dup(), admission),
    os.getppid(),
    clock=eval(sys.argv[2]),
).run()
"""


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        ("lambda: 0.0", ["started again"] * 2 + ["3rd time"]),
        ("itertools.count(0, 60).__next__", ["started again"] * 6),
    ],
    ids=["at once", "a minute later"],
)
def test_kills_that_follow_at_once_are_said_three_times(clock: str, said: list[str], tmp_path: Path) -> None:
    """A crash loop does not fill the log, and a process that had lived long before it was killed is told of each time."""
    with live.LiveServer([sys.executable, "-c", GUARDED, tmp_path / "shared", clock]) as server:
        for _ in range(6):
            (answering,) = live.eventually(server.children, bool)
            server.signal_child(answering, signal.SIGKILL)
            live.eventually(server.children, lambda pids, killed=answering: pids and killed not in pids)
        log = server.log()
    assert said == re.findall(r"started again(?=\n)|3rd time", log)
    assert len(said) == log.count("was ended by SIGKILL")
    assert [] == server.leftovers


def test_a_process_told_to_end_while_it_becomes_the_guard_ends(tmp_path: Path) -> None:
    """Its guard is killed, a scrape hangs longer than is waited for, and SIGTERM comes in the middle of it."""
    server = live.LiveServer(
        [sys.executable, "-c", GUARDED, tmp_path / "shared", "time.monotonic"], ready=(r"metrics at", 1)
    )
    with server, ThreadPoolExecutor(1) as pool:
        url = server.wait_for_log(r"metrics at (http://[^/]+)")[1]
        assert b"ok" == live.request(f"{url}/").body
        (answering,) = server.children()
        pool.submit(live.request, f"{url}/slow")  # which nobody will answer
        server.wait_for_log("slow")
        server.kill(signal.SIGKILL)
        # Its requests have 2 s to be over, and then its threads are waited for.
        time.sleep(3)
        server.signal_child(answering, signal.SIGTERM)
        assert [] == live.eventually(server.processes, lambda pids: not pids)
