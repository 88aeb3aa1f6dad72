"""
Two owners of one slot: interpreters of one process, lost locks, closed descriptors, and other programs under an old
pid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import live
import processes
import pytest
import servers

from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, locks
from wsgi_prom.store import file_format as layout
from wsgi_prom.store.claims import Claim
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

try:
    import _interpreters

    def interpreter() -> int:
        return _interpreters.create("legacy")

except ImportError:  # before Python 3.13
    import _xxsubinterpreters as _interpreters

    def interpreter() -> int:
        return _interpreters.create(isolated=False)


# What an interpreter of its own runs: it records, and keeps the counter.
RECORD = """
from prometheus_client import Counter
from wsgi_prom.client import patch
from wsgi_prom.store.current_slot import current_slot
if {name!r} not in globals():
    patch.install()
    {name} = Counter({name!r}, "Help.", ["page"], registry=None)
for number in range({times}):
    {name}.labels(str(number % 10)).inc()
"""


def record(where: int | None, name: str, times: int) -> None:
    code = RECORD.format(name=name, times=times)
    if where is None:
        exec(code, vars(sys.modules[__name__]))  # the names stay, as in an interpreter of its own
        return
    failed = _interpreters.run_string(where, code)
    assert failed is None, failed


def totals(path: Path) -> dict[str, float]:
    """Return what a new collector shows of each counter, over all labels."""
    found: dict[str, float] = {}
    for metric in Collector(path).collect().to_metrics():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                name = sample.name.removesuffix("_total")
                found[name] = found.get(name, 0.0) + sample.value
    return found


def holders(path: Path) -> list[int | None]:
    """Return who holds the first slots, as another process sees it."""
    lock_file = LockFile.of(path)
    return [lock_file.holder(locks.FIRST_SLOT + number) for number in range(3)]


def share(path: Path) -> Any:
    from wsgi_prom.store.current_slot import current_slot

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(path)
    return current_slot


def lose_lock(path: Path) -> None:
    """Read the directory's lock file and close it, which drops this process's record locks."""
    shutil.copytree(path, path.with_name("backup"), dirs_exist_ok=True)


def overwrite_claim(path: Path, number: int) -> None:
    """Claim slot *number* as a process of another pid namespace does, which cannot see the owner."""
    file = path / f"wsgi_prom.{number}.values"
    with file.open("r+b") as values:
        nonce, committed = layout.unpack_header(values.read(layout.HEADER.size))
        values.seek(0)
        values.write(layout.pack_header(nonce, committed, Claim(1, 1, 1, 1, 1)))


def test_interpreters_of_one_process_count_apart(in_child: Callable[..., Any], shared: Path) -> None:
    """Each interpreter of a process has its own slot, and a reader in one of them sees all as alive."""

    def run() -> tuple[Any, ...]:
        share(shared)
        others = [interpreter(), interpreter()]
        for name, where in (("main", None), ("one", others[0]), ("two", others[1])) * 2:
            record(where, name, 40)
        return totals(shared), holders(shared) == [os.getpid()] * 3

    assert ({"main": 80.0, "one": 80.0, "two": 80.0}, True) == in_child(run)
    assert 3 == len(list(shared.glob("*.values")))


def test_a_lock_is_not_shared_by_two_that_open_its_file(tmp_path: Path) -> None:
    """Two interpreters of one process exclude each other, although the kernel gives its record locks to both."""
    file = tmp_path / "lock"
    file.touch()
    first, second = (LockFile(os.open(file, os.O_RDWR | os.O_CLOEXEC)) for _ in range(2))
    byte = locks.FIRST_SLOT
    assert [True, False, True] == [first.acquire(byte), second.acquire(byte), first.acquire(byte)]
    first.release(byte)
    assert [True, False] == [second.acquire(byte), first.acquire(byte)]


def acquire(path: Path, wanted: list[int]) -> list[bool]:
    return [LockFile.of(path).acquire(byte) for byte in wanted]


def test_the_holders_of_a_range_are_those_of_its_bytes(shared: Path) -> None:
    """Whoever holds bytes, single ones or a row, in the range or across its ends: they are the same as byte by byte."""
    directory.prepare(shared)
    wanted = [[10, 13, 20], [11, 12, 19, 30], [9, 14, 15, 16], [17, 29], [31, 32, 33]]
    with contextlib.ExitStack() as stack:
        for these in wanted:
            child = stack.enter_context(processes.Child(acquire))
            assert [True] * len(these) == child.call(shared, these)
        lock_file = LockFile.of(shared)
        assert lock_file.acquire(18)
        ranges = [range(first, end) for first in range(8, 36) for end in range(first, 36)]
        expected = [
            [(byte, pid) for byte in each if (pid := lock_file.holder(byte)) is not None] for each in ranges
        ]
        found = [list(lock_file.holders(each)) for each in ranges]
        lock_file.release(18)
    assert expected == found
    assert len(wanted) + 1 == len({pid for each in found for _, pid in each})


def test_a_process_that_lost_its_lock_keeps_its_slot(in_child: Callable[..., Any], shared: Path) -> None:
    """
    If a process lost its record lock, a newcomer takes another slot, and the owner takes the lock again at its next
    check.
    """

    def run() -> tuple[Any, ...]:
        current_slot = share(shared)
        record(None, "hits", 40)
        lose_lock(shared)
        lost = processes.in_child(holders, shared)
        other = processes.in_child(lambda: (record(None, "child", 20), current_slot.slot.number)[1])
        record(None, "hits", 40)
        return (
            lost[0],
            other,
            current_slot.check(),
            processes.in_child(holders, shared)[0] == os.getpid(),
        )

    assert (None, 1, 0, True) == in_child(run)
    assert {"hits": 80.0, "child": 20.0} == totals(shared)


@pytest.mark.parametrize("noticed", ["look", "new labels"])
def test_who_finds_another_s_claim_in_its_slot_goes_on_in_another(
    in_child: Callable[..., Any], shared: Path, noticed: str
) -> None:
    """
    A process that finds another's claim in its slot moves to a new slot; what it recorded before and after is counted
    once.
    """

    def run() -> tuple[Any, ...]:
        current_slot = share(shared)
        record(None, "hits", 40)
        lose_lock(shared)
        with processes.Child(lambda: LockFile.of(shared).acquire(locks.FIRST_SLOT)) as other:
            assert other.call()
            overwrite_claim(shared, 0)
            record(None, "hits", 10)
            before = (shared / "wsgi_prom.0.keys").read_bytes()
            if noticed == "look":
                current_slot.check()
            record(None, "more", 10)
            record(None, "hits", 10)
            unchanged = before == (shared / "wsgi_prom.0.keys").read_bytes()
            return current_slot.slot.number, unchanged, current_slot.check()

    assert (1, True, 0) == in_child(run)
    assert {"hits": 60.0, "more": 10.0} == totals(shared)


def test_a_claim_lives_as_long_as_its_process(in_child: Callable[..., Any]) -> None:
    """A claim is dead if its process has ended, if another process has its pid, or if the process has called exec."""

    def run() -> dict[str, bool]:
        own = Claim.new()
        with processes.Child(lambda: tuple(Claim.new())) as child:
            other = Claim(*child.call())
            found = {"other": other.lives()}
            found |= {field: other._replace(**{field: 1}).lives() for field in ("started", "namespace")}
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            found["zombie"] = other.lives()
        found["gone"] = other.lives()
        found["own"] = own.lives()
        found |= {f"own {field}": own._replace(**{field: 1}).lives() for field in ("started", "program")}
        found["nobody"] = Claim().lives()
        return found

    assert {"other", "own"} == {name for name, lives in in_child(run).items() if lives}


def test_a_slot_of_a_killed_process_is_free_before_it_is_reaped(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """A zombie holds no slot."""

    def claim() -> int:
        return SharedSlot.claim(shared).number

    with processes.Child(claim) as child:
        assert 0 == child.call()
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert 0 == in_child(claim)


def test_a_program_goes_on_in_the_slot_that_its_process_had(
    in_child: Callable[..., Any], shared: Path
) -> None:
    """uWSGI's master, which execs itself at a reload and keeps its pid, continues in its slot."""
    code = f"name = 'hits'\n{RECORD.format(name='hits', times=10)}"

    def run() -> int:
        share(shared)
        record(None, "hits", 10)
        pid = os.fork()
        if pid == 0:
            record(None, "hits", 10)
            os.execv(sys.executable, [sys.executable, "-c", code])
        return os.waitpid(pid, 0)[1]

    assert 0 == in_child(run)
    assert {"hits": 30.0} == totals(shared)
    assert 2 == len(list(shared.glob("*.values")))


def close_all(folder: Path) -> list[int]:
    """Close all descriptors, as a process does that becomes a daemon, and open as many files under the same numbers."""
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    os.closerange(3, highest + 1)
    return [os.open(folder / f"own {n}", os.O_RDWR | os.O_CREAT) for n in range(highest + 1)]


@pytest.mark.parametrize("forked", [False, True], ids=["itself", "a child"])
def test_whose_descriptors_are_closed_counts_on(
    in_child: Callable[..., Any], shared: Path, tmp_path: Path, forked: bool
) -> None:
    """
    A process whose descriptors were closed keeps counting, and neither writes to nor closes the files that now have
    their numbers.
    """
    own = tmp_path / "own"
    own.mkdir()

    def become_daemon() -> None:
        from wsgi_prom import PrometheusMiddleware

        current_slot = share(shared)
        measured = PrometheusMiddleware(lambda _, start: (start("200 OK", []), [b"x"])[1])
        record(None, "hits", 20)
        measured({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
        if forked and os.fork() > 0:
            os.wait()
            return
        opened = close_all(own)
        for number in range(20):
            record(None, f"more{number}", 500)
            measured({"REQUEST_METHOD": f"GET{number}", "PATH_INFO": "/"}, lambda *_: None)
        assert 0 == current_slot.check()
        assert opened == [fd for fd in opened if os.pread(fd, 1, 0) == b""]
        if not forked:
            assert processes.in_child(holders, shared)[0] == os.getpid()

    def run() -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                become_daemon()
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(pid, 0)[1]

    assert 0 == in_child(run)
    found = totals(shared)
    assert {20.0} == {found.pop("hits")}
    assert 21.0 == found.pop("http_requests")
    assert {f"more{number}": 500.0 for number in range(20)} == {
        name: value for name, value in found.items() if name.startswith("more")
    }
    assert {0} == {path.stat().st_size for path in own.iterdir()}


@pytest.mark.parametrize(
    "options",
    [(), ("--lazy-apps", "--enable-threads", "--threads", "2")],
    ids=["prefork", "lazy-apps threads"],
)
def test_applications_of_one_uwsgi_worker_are_each_counted(options: tuple[str, ...]) -> None:
    """
    uWSGI mounts run in separate interpreters; the page shows exact counts of both, even after a worker was killed.
    """
    mounts = [f"--mount=/{name}={live.APPS / 'wrapped.py'}" for name in ("one", "two")]
    options = (*options, *mounts, "--callable=app", "--manage-script-name")
    with live.uwsgi(*options, module="wrapped:app", workers=2) as server:
        for _ in range(2):
            assert [] == live.drive(server.url, ["/", "/one/", "/two/"] * 40).failed
            server.signal_child(server.workers()[0], signal.SIGKILL)
        counted = servers.requests_counted(server.samples())
        names = sorted(path.name for path in servers.shared_directory(server).glob("*.values"))
    assert {("/", "200"): 240.0} == counted
    assert len(names) <= 6
