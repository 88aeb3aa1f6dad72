"""
Files of the client library's own multiprocess mode: kept while their processes live, added up once when those have
ended.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import live
import processes
import pytest
import servers
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from wsgi_prom.exporter.exposition import render
from wsgi_prom.merge.archiving import Archiver
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import archive, directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MODES = ("all", "min", "max", "sum", "mostrecent")


def leave(
    path: Path, pid: object, amount: float = 1.0, when: float = 1.0, modes: tuple[str, ...] = MODES
) -> None:
    """Write the files of a process that has ended."""
    directory.prepare(path)
    labels: dict[str, str] = {"kind": "a"}

    def write(name: str, *values: tuple[str, str, dict[str, str], float]) -> None:
        file = MmapedDict(str(path / f"{name}_{pid}.db"))
        for metric, sample, found, value in values:
            file.write_value(
                mmap_key(metric, sample, list(found), list(found.values()), "Help."), value, when
            )
        os.utime(path / f"{name}_{pid}.db", (when, when))
        file.close()

    write("counter", ("jobs", "jobs_total", labels, amount))
    write("summary", ("size", "size_count", {}, 1.0), ("size", "size_sum", {}, amount))
    buckets = [("wait", "wait_bucket", {"le": le}, 1.0) for le in ("1.0", "+Inf")]
    write("histogram", ("wait", "wait_sum", {}, amount), *buckets)
    for mode in modes:
        write(f"gauge_{mode}", (mode, mode, {}, amount))
        write(f"gauge_live{mode}", (f"live{mode}", f"live{mode}", {}, amount))


def page(path: Path) -> dict[str, float]:
    text = render(Collector(path).collect())
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line[0] != "#"
    }


def lasting(path: Path) -> dict[str, float]:
    """Return the page without samples of living processes and of one process."""
    return {name: value for name, value in page(path).items() if not name.startswith(("live", "all"))}


def names(path: Path) -> set[str]:
    return set(os.listdir(path)) - {"wsgi_prom.lock"}


def test_what_ended_processes_left_is_added_up(shared: Path) -> None:
    """The files of ended processes become one archive; sums, counts and lasting gauges on the page stay the same."""
    for pid in (5, 6, 7):
        leave(shared, pid, amount=float(pid), when=float(pid))
    before = lasting(shared)
    Archiver(shared).archive_ended()
    assert {archive.NAME} == names(shared)
    assert before == lasting(shared)
    assert 18.0 == before['jobs_total{kind="a"}']
    assert {'all{pid="7"}': 7.0} == {
        name: value for name, value in page(shared).items() if name.startswith(("live", "all"))
    }


def test_threads_of_one_process_add_each_file_once(shared: Path) -> None:
    """A scrape and the exporter's own thread may add at the same time, each with its own object."""
    total = 0
    with ThreadPoolExecutor(4) as pool:
        for turn in range(30):
            for number in range(10):
                leave(shared, f"{turn}x{number}", modes=())
            total += 10
            together = threading.Barrier(4)

            def archive_together(together: threading.Barrier = together) -> None:
                together.wait(60)
                Archiver(shared).archive_ended()

            for future in [pool.submit(archive_together) for _ in range(4)]:
                future.result(timeout=60)
    Archiver(shared).archive_ended()
    assert total == page(shared)['jobs_total{kind="a"}']
    assert {archive.NAME} == names(shared)


def test_the_archive_does_not_grow_with_processes(shared: Path) -> None:
    """A thousand runs of a command leave as much as ten."""
    sizes = []
    for count in (10, 90):
        for _ in range(count):
            leave(shared, os.urandom(4).hex())
        Archiver(shared).archive_ended()
        sizes.append((shared / archive.NAME).stat().st_size)
    assert 100.0 == page(shared)['jobs_total{kind="a"}']
    assert sizes[1] <= sizes[0] + 32


def test_a_file_that_is_open_stays(shared: Path) -> None:
    """A file that a process has open is kept, whatever pid is in its name."""
    leave(shared, 5)
    leave(shared, "worker_3")
    held = open(shared / "counter_worker_3.db", "a+b")  # noqa: PTH123, SIM115
    with held:
        found = archive_elsewhere(shared)
    assert {archive.NAME, "counter_worker_3.db"} == found
    assert 2.0 == page(shared)['jobs_total{kind="a"}']
    assert {archive.NAME} == archive_elsewhere(shared)
    assert 2.0 == page(shared)['jobs_total{kind="a"}']


def archive_elsewhere(path: Path) -> set[str]:
    """Fold in a process of its own, and return the names of the files that are there then."""
    script = f"from pathlib import Path; from wsgi_prom.merge.archiving import Archiver; Archiver(Path({str(path)!r})).archive_ended()"
    subprocess.run([sys.executable, "-c", script], check=True)
    return names(path)


STEPS = ("rename", "unlink", "open", "listdir", "stat")


def archive_and_die(path: Path, steps: int) -> bool:
    """Archive, and be killed before step *number*. Returns whether the archiving was finished before."""
    left = [steps]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os._exit(1)
            left[0] -= 1
            return call(*arguments, **options)

        return step

    child = os.fork()
    if child == 0:
        try:
            for name in STEPS:
                setattr(os, name, counted(getattr(os, name)))
            Archiver(path).archive_ended()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_kill_between_two_steps_neither_loses_nor_doubles(shared: Path) -> None:
    """
    A kill at any step of the archiving changes nothing on the page, before and after the next process has finished it.
    """
    amount, steps, whole = 0, 0, False
    while not whole:
        for pid in (f"{steps}a", f"{steps}b"):
            leave(shared, pid, modes=())
            amount += 1
        whole = archive_and_die(shared, steps)
        steps += 1
        assert amount == page(shared)['jobs_total{kind="a"}']
        assert 2 * amount == page(shared)['wait_bucket{le="+Inf"}']
        if steps % 3 == 0:
            processes.in_child(Archiver(shared).archive_ended)
            assert amount == page(shared)['jobs_total{kind="a"}']
    assert steps > 20
    assert {archive.NAME} == names(shared)


def test_no_sum_goes_back_by_a_last_digit(shared: Path) -> None:
    """Sums of amounts that no double holds exactly are the same before and after some of them were folded."""
    numbers = random.Random(7)
    before = 0.0
    for turn in range(20):
        large = numbers.random() * 10 ** numbers.randint(-3, 9)
        leave(shared, f"a{turn}", amount=large, modes=())
        leave(shared, f"b{turn}", amount=numbers.random(), modes=())
        between = page(shared)["wait_sum"]
        with open(shared / f"histogram_b{turn - 1}.db", "a+b") if turn else open(os.devnull) as _:  # noqa: PTH123
            archive_elsewhere(shared) if turn % 10 == 0 else Archiver(shared).archive_ended()
        after = page(shared)["wait_sum"]
        assert before <= between == after
        before = after


@pytest.mark.parametrize("content", [b"", b"\1", bytes(65536)])
def test_a_file_that_nothing_was_written_to(shared: Path, content: bytes) -> None:
    """An empty file of a process that was killed while it made the file is removed without an error."""
    leave(shared, 5)
    (shared / "counter_6.db").write_bytes(content)
    collector = Collector(shared)
    collector.collect()
    assert () == collector.report.unreadable
    Archiver(shared).archive_ended()
    assert {archive.NAME} == names(shared)
    assert 1.0 == page(shared)['jobs_total{kind="a"}']


@pytest.mark.parametrize("content", [b"garbage!" * 100, b"\x28\0\0\0\0\0\0\0\x08\0\0\0notjson!" + bytes(20)])
def test_a_file_that_cannot_be_read_stays_and_harms_no_other(shared: Path, content: bytes) -> None:
    """A damaged file is kept and counted as unreadable at each scrape; the others are folded."""
    leave(shared, 5)
    (shared / "counter_6.db").write_bytes(content)
    Archiver(shared).archive_ended()
    assert {archive.NAME, "counter_6.db"} == names(shared)
    collector = Collector(shared)
    collector.collect()
    assert ("counter_6.db",) == collector.report.unreadable
    assert 1.0 == page(shared)['jobs_total{kind="a"}']


def test_a_damaged_archive_is_told_and_nothing_is_added_to_it(shared: Path) -> None:
    """A damaged archive is reported and left as it is; files that come later still count."""
    leave(shared, 5)
    directory.prepare(shared)
    (shared / archive.NAME).write_bytes(b"wsgi_prom archive 1 7\nnonsense")
    Archiver(shared).archive_ended()
    collector = Collector(shared)
    collector.collect()
    assert (archive.NAME,) == collector.report.unreadable
    assert 1.0 == page(shared)['jobs_total{kind="a"}']


def test_a_full_disk_keeps_the_files(tmp_path: Path) -> None:
    """If the archive cannot be written, the files stay and count one by one."""
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_ended_clients as tests
path = Path("/dev/shm/small")
tests.leave(path, 5); tests.leave(path, 6)
with open("/dev/shm/full", "wb", buffering=0) as full:
    try:
        while full.write(bytes(4096)): pass
    except OSError: pass
before = tests.lasting(path)
tests.Archiver(path).archive_ended()
between = tests.lasting(path)
os.unlink("/dev/shm/full")
tests.Archiver(path).archive_ended()
print(before == between == tests.lasting(path), tests.names(path))
"""
    command = 'mount -t tmpfs -o size=1m small /dev/shm && exec "$@"'
    folder = str(live.ROOT / "tests")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-c", script, folder],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{live.ROOT}{os.pathsep}{folder}"},
    )  # fmt: skip
    assert "True {'wsgi_prom.archive'}\n" == done.stdout, done.stderr


def test_a_start_removes_what_ended_processes_left_alone(shared: Path) -> None:
    """The start of a server removes files of ended processes, and none that a living one has open."""
    leave(shared, 5)
    Archiver(shared).archive_ended()
    leave(shared, 6)
    lock_file = directory.prepare(shared)
    with open(shared / "counter_6.db", "a+b"):  # noqa: PTH123
        processes.in_child(lambda: directory.clear(shared, directory.prepare(shared)))
    assert {"counter_6.db"} == names(shared)
    directory.clear(shared, lock_file)
    assert set() == names(shared)


def test_scrapes_beside_an_archiving_process_never_go_back(shared: Path) -> None:
    """A process that scrapes while another one archives sees each file once, in the archive or beside it."""
    leave(shared, "first")
    script = f"""
import time
from pathlib import Path
from wsgi_prom.merge.archiving import Archiver
archiver = Archiver(Path({str(shared)!r}))
end = time.monotonic() + 20
while time.monotonic() < end and not Path({str(shared / "stop")!r}).exists():
    archiver.archive_ended()
"""
    with subprocess.Popen([sys.executable, "-c", script]) as other:
        collector = Collector(shared)
        last, count = 1.0, 1
        for turn in range(60):
            leave(shared, turn)
            count += 1
            text = render(collector.collect())
            found = float(text.split('jobs_total{kind="a"} ')[1].split("\n")[0])
            assert last <= found == count
            last = found
        (shared / "stop").touch()
        assert 0 == other.wait()


TASKS = """
import sys, time
from prometheus_client import Counter, Gauge
tasks = Counter("tasks", "Tasks.")
Gauge("running", "Running.", multiprocess_mode="livesum").set(1)
tasks.inc(5)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=servers.BOTH)
def beside(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], live.LiveServer, Path]]:
    """A task worker of the plain client library in a directory, and then a server in the same one."""
    path = tmp_path / "shared"
    path.mkdir(mode=0o700)
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(path)}
    worker = subprocess.Popen([sys.executable, "-c", TASKS], env=env, stdin=-1, stdout=-1, text=True)
    assert worker.stdout is not None
    worker.stdout.readline()
    with worker, servers.start(request.param, workers=1, PROMETHEUS_MULTIPROC_DIR=str(path)) as server:
        yield worker, server, path


def test_a_task_worker_that_lives_is_on_the_page_and_when_it_has_ended_its_counters(
    beside: tuple[subprocess.Popen[str], live.LiveServer, Path],
) -> None:
    """
    A server's start keeps the files of a living task worker; when that has ended, its counters stay and its files go.
    """
    worker, server, path = beside
    live.drive(server.url, ["/"] * 5)
    samples = server.samples()
    assert (5.0, 1.0) == tuple(servers.value(samples, name) for name in ("tasks_total", "running"))
    assert {("/", "200"): 5} == servers.requests_counted(samples)
    worker.communicate("")
    assert set() == live.eventually(lambda: set(path.glob("*.db")), lambda found: not found)
    samples = server.samples()
    assert (5.0, None) == tuple(servers.value(samples, name) for name in ("tasks_total", "running"))


def test_a_directory_that_is_gone_is_no_news(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exporter whose directory is removed at the end of its server logs no error."""
    archiver = Archiver(shared)
    archiver.archive_ended()
    assert [] == caplog.messages
