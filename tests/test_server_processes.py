"""What a server's processes take: the figures on its page are those of /proc, and stay the same series when workers are replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import live
import processes
import pytest
import servers
from users import needs_root

from wsgi_prom.merge.collector import Collector
from wsgi_prom.server.processes import Processes
from wsgi_prom.server.stat import Stat
from wsgi_prom.server.totals import Totals
from wsgi_prom.store.claims import Stage
from wsgi_prom.store.locks import FIRST_SLOT, LockFile
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from wsgi_prom.merge.readers import Reading

TICKS = os.sysconf("SC_CLK_TCK")
CPU = "process_cpu_seconds_total"
RSS = "process_resident_memory_bytes"
PSS = "process_proportional_memory_bytes"


def by_series(samples: live.Samples, name: str) -> dict[tuple[str, str], float]:
    """Return the samples of *name* by their slot, or nothing, and role."""
    found = live.labelled(samples, name).items()
    return {(dict(labels).get("worker", ""), dict(labels)["role"]): value for labels, value in found}


def owner(server: live.LiveServer, worker: str) -> int:
    """Return the pid of the process that has the slot *worker*."""
    return LockFile.of(servers.shared_directory(server)).holder(FIRST_SLOT + int(worker)) or 0


def memory(pid: int, name: str, file: str = "status") -> int:
    """Return a number of kB of a file of /proc, in bytes."""
    return 1024 * int(
        re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)[1]
    )


def cpu(pid: int, first: int = 11) -> float:
    return sum(map(int, live.stat_fields(pid)[first : first + 2])) / TICKS


def of_proc(pid: int) -> dict[str, float]:
    limit = re.search(r"Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text())
    return {
        RSS: memory(pid, "VmRSS"),
        CPU: cpu(pid),
        "process_virtual_memory_bytes": memory(pid, "VmSize"),
        "process_open_fds": len(os.listdir(f"/proc/{pid}/fd")),
        "process_max_fds": int(limit[1]),
        "process_threads": len(os.listdir(f"/proc/{pid}/task")),
    }


def spend(server: live.LiveServer, pids: Iterable[int], *paths: str) -> None:
    """Ask for each of *paths* until each of *pids* has served it."""
    for path in paths:
        missing = set(pids)

        def ask(path: str = path, missing: set[int] = missing) -> None:
            while missing:
                missing.discard(json.loads(server.get(path).body)["pid"])

        clients = [threading.Thread(target=ask) for _ in missing]
        for client in clients:
            client.start()
        for client in clients:
            client.join()


SERVERS = {
    "gunicorn gthread": (),
    "gunicorn sync gevent": ("--worker-class", "gevent"),
    "uwsgi threads": (),
}


@pytest.mark.parametrize("name", SERVERS)
def test_figures_are_those_of_proc(name: str) -> None:
    """Each worker, the master and the exporter have the CPU time, memory, descriptors and threads that /proc says."""
    with servers.start(name.removesuffix(" gevent"), *SERVERS[name], app="spending:app", workers=2) as server:
        workers = live.eventually(server.workers, lambda pids: len(pids) == 2)
        spend(server, workers, "/burn?s=0.3", "/grow?mb=20")
        supervisor, serving = servers.supervisor_and_serving(server)
        samples = live.eventually(server.samples, lambda found: len(by_series(found, PSS)) == 5)
        pids = {("", "master"): server.pid, ("", "supervisor"): supervisor}
        pids |= {(worker, "worker"): owner(server, worker) for worker in ("0", "1")}
        expected = {series: of_proc(pid) for series, pid in pids.items()}
        shares = {series: memory(pid, "Pss", "smaps_rollup") for series, pid in pids.items()}
        exporter = memory(serving, "VmRSS")
    found = {
        series: {metric: by_series(samples, metric)[series] for metric in expected[series]} for series in pids
    }
    assert {
        series: pytest.approx(figures, rel=0.05, abs=2 / TICKS) for series, figures in expected.items()
    } == found
    assert set(workers) == {pids["0", "worker"], pids["1", "worker"]}
    assert pytest.approx(exporter, rel=0.05) == by_series(samples, RSS)["", "exporter"]
    assert pytest.approx(shares, rel=0.1) == {series: by_series(samples, PSS)[series] for series in pids}


def test_mules_spoolers_and_daemons_have_their_roles(tmp_path: Path) -> None:
    """Two mules, a spooler and a daemon with a child of its own are there, each as what it is, and all of them in the sums."""
    (tmp_path / "script").write_text(f"echo $$ > {tmp_path}/daemon; sleep 1000 & sleep 1000")
    daemon = f"exec sh {tmp_path}/script"
    with servers.start(
        "uwsgi threads", "--mule", "--mule", "--spooler", str(tmp_path), "--attach-daemon", daemon, workers=2
    ) as server:
        samples = live.eventually(server.samples, lambda found: ("", "daemon") in by_series(found, RSS))
        log = server.log()
        mules = [int(pid) for pid in re.findall(r"spawned uWSGI mule \d+ \(pid: (\d+)\)", log)]
        (spooler,) = map(int, re.findall(r"spooler on dir .* with pid (\d+)", log))
        shell = int((tmp_path / "daemon").read_text())
        resident = {
            "mule": sum(memory(pid, "VmRSS") for pid in mules),
            "spooler": memory(spooler, "VmRSS"),
            "daemon": sum(
                memory(pid, "VmRSS") for pid in server.processes() if shell in {pid, live.parent(pid)}
            ),
        }
    assert len(mules) == 2
    found = by_series(samples, RSS)
    assert {"worker", "master", "exporter", "supervisor", *resident} == {role for _, role in found}
    assert pytest.approx(resident, rel=0.05) == {role: found["", role] for role in resident}


@needs_root
def test_an_exporter_whose_parent_is_the_master_is_no_daemon() -> None:
    """In a container the master is process 1, and so the exporter's parent; the only daemon there is the one that it runs."""
    server = servers.start("uwsgi prefork", "--attach-daemon", "exec sleep 1000", workers=1)
    server.command[:0] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with server:
        samples = live.eventually(server.samples, lambda found: ("", "daemon") in by_series(found, RSS))
        (sleep,) = [pid for pid in server.processes() if live.command_line(pid).startswith("sleep")]
        resident = memory(sleep, "VmRSS")
        # unshare passes no signal on.
        (master,) = server.children()
        server.signal_child(master, signal.SIGTERM)
        server.wait()
    found = by_series(samples, RSS)
    assert {"worker", "master", "exporter", "supervisor", "daemon"} == {role for _, role in found}
    assert pytest.approx(resident, rel=0.05) == found["", "daemon"]


DIRTY = """
from gunicorn.dirty import DirtyApp

class Task(DirtyApp):
    def __call__(self, *_, **__):
        return None
"""


def test_dirty_workers_of_gunicorn_have_their_role(tmp_path: Path) -> None:
    """The process that starts dirty workers, and two of these, are one series."""
    (tmp_path / "dirty_task.py").write_text(DIRTY)
    with servers.start(
        "gunicorn sync", "--dirty-app", "dirty_task:Task", "--dirty-workers", "2", workers=1,
        PYTHONPATH=f"{tmp_path}:{live.APPS}",
    ) as server:  # fmt: skip
        samples = live.eventually(
            server.samples, lambda found: by_series(found, "process_threads").get(("", "dirty"), 0) >= 3
        )
        (arbiter,) = map(int, re.findall(r"Dirty arbiter starting \(pid: (\d+)\)", server.log()))
        dirty = [pid for pid in server.processes() if arbiter in {pid, live.parent(pid)}]
        resident = sum(memory(pid, "VmRSS") for pid in dirty)
    assert len(dirty) == 3
    assert pytest.approx(resident, rel=0.05) == by_series(samples, RSS)["", "dirty"]


# uWSGI takes a second for each worker.
@pytest.mark.parametrize(
    ("name", "options", "requests"),
    [("gunicorn sync", (), 8), ("uwsgi prefork", ("--min-worker-lifetime", "0"), 5)],
)
def test_recycled_workers_make_no_new_series_and_no_counter_goes_back(
    name: str, options: tuple[str, ...], requests: int
) -> None:
    """While workers come and go that serve one request each, there are two workers' series, and all counters only rise."""
    with servers.start(name, "--max-requests", "1", *options, workers=2) as server:
        live.eventually(lambda: len(by_series(server.samples(), CPU)), lambda count: count == 5)
        scrapes = servers.Scraper(server)
        driven = scrapes.during(lambda: live.drive(server.url, ["/"] * requests, clients=2))
        samples = live.eventually(server.samples, lambda found: len(by_series(found, RSS)) == 5)
        scrapes.scrape()
    assert [] == driven.failed
    assert [] == scrapes.problems
    assert (servers.value(samples, "wsgi_worker_starts_total") or 0) >= requests
    series = {("0", "worker"), ("1", "worker"), ("", "master"), ("", "exporter"), ("", "supervisor")}
    assert series == set(by_series(samples, RSS)) == set(by_series(scrapes.last, CPU))
    assert by_series(samples, "process_children_cpu_seconds_total")["", "master"] > 0


def test_what_a_worker_has_used_stays_in_the_sum_when_it_is_replaced() -> None:
    """A worker that was seen to use half a second and is killed leaves it to its successor's series."""
    with servers.start("gunicorn sync", app="spending:app", workers=1) as server:
        (worker,) = live.eventually(server.workers, lambda pids: len(pids) == 1)
        spend(server, [worker], "/burn?s=0.5", "/child?s=0.3")
        before = live.eventually(server.samples, lambda found: by_series(found, CPU)["0", "worker"] >= 0.5)
        used = cpu(worker)
        os.kill(worker, 9)
        (second,) = live.eventually(server.workers, lambda pids: len(pids) == 1 and pids != [worker])
        spend(server, [second], "/burn?s=0.5")
        after = live.eventually(
            server.samples, lambda found: by_series(found, CPU)["0", "worker"] >= used + 0.5
        )
        used += cpu(second)
    assert pytest.approx(used, rel=0.05) == by_series(after, CPU)["0", "worker"]
    assert [] == servers.gone_back(before, after)
    children = by_series(after, "process_children_cpu_seconds_total")
    assert children["0", "worker"] >= 0.3
    assert children["", "master"] >= 0.5


def test_of_workers_that_have_changed_their_user_what_the_kernel_hides_is_absent() -> None:
    """Where root's workers drop to another user, whom the exporter is too, their PSS is absent, and no more; before Linux 6.2 their descriptors too."""
    server = servers.start("gunicorn sync", "--user", "www-data", "--group", "www-data", workers=1)
    server.command[:] = live.for_any_user(server.command)
    with server:
        samples = live.eventually(server.samples, lambda found: ("", "exporter") in by_series(found, PSS))
        log = server.log()
    assert {("0", "worker"), ("", "master"), ("", "exporter"), ("", "supervisor")} == set(
        by_series(samples, RSS)
    )
    assert set(by_series(samples, RSS)) == set(by_series(samples, CPU))
    assert {("", "exporter"), ("", "supervisor")} == set(by_series(samples, PSS))
    told = set(by_series(samples, RSS if Path("/proc/self/fd").stat().st_size else PSS))
    assert told == set(by_series(samples, "process_open_fds"))
    assert "cannot be read" not in log


def test_a_restarted_exporter_goes_on_with_all_counters() -> None:
    """A worker's predecessor stays in its sum when either process of the exporter, or both, are killed, and at a reload; so do the seconds that clients have waited."""
    with servers.start("gunicorn sync", app="spending:app", workers=1) as server:
        (worker,) = live.eventually(server.workers, lambda pids: len(pids) == 1)
        spend(server, [worker], "/child?s=0.3")
        live.drive(server.url, ["/burn?s=0.5"] * 3, clients=3)
        live.eventually(server.samples, lambda found: by_series(found, CPU)["0", "worker"] >= 1.5)
        os.kill(worker, 9)
        (second,) = live.eventually(server.workers, lambda pids: len(pids) == 1 and pids != [worker])
        spend(server, [second], "/burn?s=0.1")
        pages = [live.eventually(server.samples, lambda found: by_series(found, CPU)["0", "worker"] >= 1.6)]
        for which in (1, 0):
            before = servers.supervisor_and_serving(server)
            server.signal_child(before[which], signal.SIGKILL)
            live.eventually(
                lambda: servers.exporter_processes(server),
                lambda found, ended=before[which]: len(found) == 2 and ended not in found,
            )
            servers.supervisor_and_serving(server)
            pages.append(live.eventually(server.samples, lambda found: by_series(found, CPU)))
        used = cpu(second)
        servers.kill_exporter(server)
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_log(live.METRICS_LINE, count=2)
        pages.append(live.eventually(server.samples, lambda found: by_series(found, CPU)))
    assert [] == [line for old, new in pairwise(pages) for line in servers.gone_back(old, new)]
    first, last = (by_series(page, CPU)["0", "worker"] for page in pages[0:3:2])
    assert last - first < used
    (waited,) = live.labelled(pages[0], "wsgi_listen_queue_seconds_total").values()
    assert waited > 0


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_without_psutil_the_rest_is_there(error: str, tmp_path: Path) -> None:
    """Where psutil cannot be imported, one warning says so and how to install it, and the page has all else."""
    (tmp_path / "psutil.py").write_text(f"raise {error}('no psutil here')")
    with servers.start("gunicorn sync", PYTHONPATH=f"{tmp_path}:{live.APPS}", workers=1) as server:
        live.drive(server.url, ["/"] * 3)
        samples = live.eventually(
            server.samples, lambda found: servers.requests_counted(found).get(("/", "200"))
        )
        server.samples()
        log = server.log()
    names = {name for name, _ in samples}
    assert set() == {name for name in names if name.startswith("process_")}
    assert {"wsgi_workers", "python_info", "wsgi_worker_starts_total"} <= names
    assert 1 == log.count("no process_*")
    assert (
        "[WARNING] wsgi_prom: no process_* metrics, since psutil cannot be imported (no psutil here). pip install"
        in log
    )


def test_a_psutil_that_is_no_psutil_is_told_as_that(tmp_path: Path) -> None:
    """Another module of that name can be imported: an installation would not help."""
    (tmp_path / "psutil.py").touch()
    with servers.start("gunicorn sync", PYTHONPATH=f"{tmp_path}:{live.APPS}", workers=1) as server:
        server.samples()
        log = server.log()
    assert "no process_* metrics (AttributeError: " in log
    assert "pip install" not in log


def test_a_daemon_that_records_is_no_second_process(tmp_path: Path) -> None:
    """A daemon that has called join() is the task of its slot, and not a daemon too."""
    (tmp_path / "task.py").write_text("import time, wsgi_prom\nwsgi_prom.join()\ntime.sleep(1000)\n")
    daemon = f"exec {sys.executable} {tmp_path}/task.py"
    with servers.start(
        "uwsgi threads", "--attach-daemon", daemon, "--attach-daemon", "exec sleep 1000", workers=1
    ) as server:
        live.eventually(server.samples, lambda found: ("", "daemon") in by_series(found, RSS))
        samples = live.eventually(
            server.samples, lambda found: {"daemon", "task"} <= {role for _, role in by_series(found, RSS)}
        )
        (sleep,) = [pid for pid in server.processes() if live.command_line(pid).startswith("sleep")]
        resident = memory(sleep, "VmRSS")
    found = by_series(samples, RSS)
    assert pytest.approx(resident, rel=0.05) == found["", "daemon"]


def test_a_worker_never_imports_psutil() -> None:
    """A page that the application itself serves needs no psutil, and has no figures of processes."""
    with servers.start(
        "gunicorn sync", app="spending:app", workers=1, WSGI_PROM_METRICS_PATH="/metrics"
    ) as server:
        page = server.get("/metrics").body.decode()
        assert not json.loads(server.get("/").body)["psutil"]
        assert by_series(server.samples(), RSS)
    assert "http_requests_in_progress" in page
    assert "process_" not in page


@pytest.fixture
def children(shared: Path) -> Iterator[list[processes.Child]]:
    """Three processes with a slot each, of which the third is no worker. Each call takes 0.1 s of CPU time."""
    held = []

    def claim(stage: Stage | None = None) -> int:
        if stage is None:
            burn(0.1)
            return 0
        held.append(SharedSlot.claim(shared))
        held[0].tell_stage(stage)
        return held[0].number

    with processes.Child(claim) as first, processes.Child(claim) as second, processes.Child(claim) as third:
        assert [0, 1, 2] == [
            child.call(stage)
            for child, stage in ((first, Stage.SERVING), (second, Stage.BOOTING), (third, Stage.NONE))
        ]
        yield [first, second, third]


def slots_of(path: Path) -> list[Reading]:
    collector = Collector(path)
    collector.collect()
    return collector.slots


def shown(families: Iterable[Metric], name: str = RSS) -> set[tuple[str, str]]:
    return {
        (sample.labels.get("worker", ""), sample.labels["role"])
        for family in families
        for sample in family.samples
        if sample.name == name
    }


EXPORTER = ("", "exporter")
BOTH = {("0", "worker"), ("1", "worker"), EXPORTER}


def test_a_process_that_ends_between_two_looks_costs_only_itself(
    children: list[processes.Child], shared: Path
) -> None:
    """Of a process that lived when the slots were read and has ended since, there are no gauges, and its counters stay."""
    found = Processes(shared)
    slots = slots_of(shared)
    assert BOTH == shown(found.families(slots))
    children[0].kill()
    families = found.families(slots)
    assert BOTH - {("0", "worker")} == shown(families) - {("2", "task")}
    assert BOTH <= shown(families, CPU)
    found.look()


def test_a_process_that_is_no_worker_is_a_task(children: list[processes.Child], shared: Path) -> None:
    """It is shown a moment after it was first seen: a worker that has just claimed its slot is not one."""
    found = Processes(shared)
    assert BOTH == shown(found.families(slots_of(shared)))
    slots = slots_of(shared)
    task = live.eventually(lambda: shown(found.families(slots)), lambda series: len(series) > len(BOTH))
    assert {*BOTH, ("2", "task")} == task


@pytest.mark.parametrize("word", ["started", "namespace"])
def test_another_process_that_has_the_pid_is_not_taken_for_a_worker(
    children: list[processes.Child], shared: Path, word: str
) -> None:
    """A claim of a process that started at another time, or of another pid namespace, tells of no process here."""
    first, *others = slots_of(shared)
    claim = first.claim._replace(**{word: getattr(first.claim, word) - 10 * TICKS})
    families = Processes(shared).families([replace(first, claim=claim), *others])
    assert {("1", "worker"), EXPORTER} == shown(families)


def test_a_process_that_may_not_be_looked_at_is_absent(
    children: list[processes.Child], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc hides a process, as that of another user under hidepid, the others are there."""
    read = Stat.read

    def hidden(pid: int) -> Stat:
        if pid == children[0].pid:
            raise PermissionError(pid)
        return read(pid)

    monkeypatch.setattr(Stat, "read", hidden)
    assert {("1", "worker"), EXPORTER} == shown(Processes(shared).families(slots_of(shared)))


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def cpu_of(found: Processes, slots: list[Reading]) -> dict[tuple[str, str], float]:
    return {
        (sample.labels.get("worker", ""), sample.labels["role"]): sample.value
        for family in found.families(slots)
        for sample in family.samples
        if sample.name == CPU
    }


def test_an_exporter_goes_on_from_the_totals_of_the_one_before(
    children: list[processes.Child], shared: Path
) -> None:
    """Whether a process lives on or has ended between the two, what it used is counted once."""
    slots = slots_of(shared)
    for child in children[:2]:
        child.call()
    first = cpu_of(Processes(shared), slots)
    assert first["0", "worker"] >= 0.1 - 2 / TICKS
    children[0].kill()
    children[1].call()
    second = cpu_of(Processes(shared), slots_of(shared))
    assert first["0", "worker"] == second["0", "worker"]
    assert pytest.approx(cpu(children[1].pid), abs=2 / TICKS) == second["1", "worker"]


def test_a_look_between_scrapes_counts_for_the_next_exporter(
    children: list[processes.Child], shared: Path
) -> None:
    """What a process had used when it was looked at, and not scraped, stays when it ends together with the exporter."""
    slots = slots_of(shared)
    found = Processes(shared)
    before = cpu_of(found, slots)["0", "worker"]
    children[0].call()
    found.look()
    children[0].kill()
    assert cpu_of(Processes(shared), slots)["0", "worker"] >= before + 0.1 - 2 / TICKS


def test_a_process_that_goes_to_another_slot_is_counted_once(shared: Path) -> None:
    """What it had used stays where it was counted; a look that fails, or finds less, takes nothing away."""
    totals, process, other = Totals(shared), (7, 1), (7, 2)
    totals.add(("0", "worker"), process, (100, 0))
    totals.forget(set(), {process}.__contains__)
    totals.add(("0", "worker"), process, (300, 50))
    totals.add(("1", "worker"), process, (400, 50))
    totals.add(("1", "worker"), process, (350, 50))
    totals.add(("1", "worker"), process, (400, 50))
    totals.forget({other}, set().__contains__)
    totals.add(("0", "worker"), other, (200, 0))
    assert {("0", "worker"): (500, 50), ("1", "worker"): (100, 0)} == totals.save()


def test_the_memory_that_takes_long_to_read_is_read_once_a_minute(
    children: list[processes.Child], shared: Path
) -> None:
    """PSS is there after the first look, and is read again only a minute later."""
    now = [1000.0]
    found = Processes(shared, clock=lambda: now[0])
    slots = slots_of(shared)
    found.families(slots)
    found.look()

    def pss() -> float:
        (value,) = (
            sample.value
            for family in found.families(slots)
            for sample in family.samples
            if sample.name == PSS and sample.labels["role"] == "exporter"
        )
        return value

    first = pss()
    assert pytest.approx(memory(os.getpid(), "Pss", "smaps_rollup"), rel=0.1) == first
    kept = bytearray(b"x" * (64 << 20))
    now[0] += 59
    found.look()
    assert first == pss()
    now[0] += 1
    found.look()
    assert pss() > first + len(kept) / 2


def test_the_sum_of_memory_has_new_processes_from_their_first_scrape(
    children: list[processes.Child], shared: Path
) -> None:
    """The PSS and the threads of a process are there when it is first seen."""
    families = Processes(shared).families(slots_of(shared))
    assert BOTH == shown(families, PSS) == shown(families, "process_threads")


def test_where_too_many_processes_are_new_their_memory_is_absent_until_a_look(shared: Path) -> None:
    """A sum of some would be wrong. The next scrape has all."""
    with ExitStack() as stack:
        for _ in range(10):
            child = stack.enter_context(processes.Child(serve_in))
            child.call(shared)
        slots = slots_of(shared)
        found = Processes(shared)
        assert set() == shown(found.families(slots), PSS)
        found.look()
        assert {EXPORTER} | {(str(number), "worker") for number in range(10)} == shown(
            found.families(slots), PSS
        )


HELD = []


def serve_in(path: Path) -> None:
    HELD.append(SharedSlot.claim(path))
    HELD[-1].tell_stage(Stage.SERVING)
