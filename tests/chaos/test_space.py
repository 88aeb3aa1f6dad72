"""No space or no inodes left for slot files, at the start or later, because of our own label sets or foreign files."""

from __future__ import annotations

import os
import resource
import signal
import time
from typing import TYPE_CHECKING

import live
import pytest
import servers
from chaos.mounts import change, mounted, seen_by
from chaos.recovery import ask_all, missing, replace_workers, settled, storage_errors, traffic
from chaos.referee import KINDS, Case, Kind
from chaos.scale import FULL, scale
from processes import in_child
from prometheus_client import Counter

from wsgi_prom.client import patch
from wsgi_prom.store import environment
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from pathlib import Path

    from wsgi_prom.store.memory_slot import Slot

WORKERS = 2
QUIET = dict.fromkeys(servers.UWSGI, ("--forkbomb-delay", "0", "--disable-logging"))

SWELL = Kind("/swell", "/swell", 200, b"swollen")

# As small as a container's own /dev/shm is not, and a quota may be.
SIZE = 128 << 10

FILL = 'dd if=/dev/zero of="$1/foreign" bs=4k 2>/dev/null || true'


def flood(number: int) -> Kind:
    return Kind(f"/flood?text={number:05}-----", "/flood", 200, b"flooded")


def start(name: str, path: Path, options: str, *scripts: str) -> live.LiveServer:
    """
    Return a server whose directory is a small tmpfs of its own.
    """
    path.mkdir(0o700)
    server = servers.start(
        name, *QUIET.get(name, ()), app="harmed:app", workers=WORKERS, PROMETHEUS_MULTIPROC_DIR=str(path)
    )
    script = "; ".join([f'mount -t tmpfs -o mode=0700,{options} chaos "$1"', *scripts])
    return mounted(server, script, path)


class Tries:
    """A binding that records, and counts how often it is asked whether its values have space by now."""

    def __init__(self) -> None:
        self.count = 0

    def bind(self, slot: Slot, *, keep: bool) -> None:
        self.count += 1


def test_a_flood_that_finds_no_space_is_not_tried_for_at_each_label_set(shared: Path) -> None:
    """Values in memory are retried once a second, however many label sets come meanwhile."""

    def flood() -> tuple[int, float]:
        os.environ[environment.VARIABLE] = str(shared)
        patch.install()
        counter = Counter("flood", "Flood.", ["number"], registry=None)
        counter.labels("first").inc()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # One page of values.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        tries = Tries()
        current_slot.add(tries)
        tries.count = 0
        began = time.monotonic()
        for number in range(900):
            counter.labels(str(number)).inc()
        return tries.count, time.monotonic() - began

    count, seconds = in_child(flood)
    assert 1 <= count <= 2 + seconds


def in_log(server: live.LiveServer, text: str) -> bool:
    return text in server.log()


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_flood_of_label_sets_that_fills_the_directory_loses_nothing(name: str, shared: Path) -> None:
    """Label sets without space stay in memory, with a line of log, and are on the page once when there is space."""
    # Far more than fits, with the lines of keys.
    count = 2 * SIZE // 1000
    with start(name, shared, f"size={SIZE}") as server:
        with Case(f"tmpfs full by a flood, {name}", server, clients=0) as case:
            case.send_all(KINDS)
            ask_all(case, WORKERS)
            before = server.workers()
            with case.fault(cuts=False):
                case.send_all([flood(number) for number in range(count)])
            case.send_all(KINDS * 4)
            case.scrapes.scrape()
            some = live.labelled(case.scrapes.last, "app_flood_total")
            said = in_log(server, "space")
            assert live.eventually(lambda: storage_errors(case), lambda found: found > 0, 10.0) > 0
            # Each worker had these figures before: they need no more of it.
            assert 0 == missing_of(case, "/sleep")
            change(server, "mount", "-o", "remount,size=4m", shared)
            found = live.eventually(
                lambda: all_of(case, "app_flood_total"), lambda found: len(found) == count, 5.0
            )
            assert 0 == missing(case)
            assert before == server.workers()
    assert 0 < len(some) < count
    assert {1.0} == set(some.values())
    assert said
    assert (count, {1.0}) == (len(found), set(found.values()))


def all_of(case: Case, name: str) -> dict[live.Labels, float]:
    """
    Have each worker look after its slot, and return what a scrape then shows of a metric.
    """
    ask_all(case, WORKERS)
    case.scrapes.scrape()
    return live.labelled(case.scrapes.last, name)


def missing_of(case: Case, route: str) -> float:
    counted = servers.requests_counted(case.scrapes.last)
    return case.tally.completed[route, "200"] - counted.get((route, "200"), 0)


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_directory_that_somebody_else_has_filled_loses_nothing(name: str, shared: Path) -> None:
    """
    Workers lose nothing in a directory that is full at their start, has room for a while, is full when files grow, and
    has room again.
    """
    with start(name, shared, f"size={SIZE}", FILL) as server:
        with Case(f"tmpfs full by a foreign file, {name}", server, clients=0) as case:
            before = server.workers()
            with case.fault(cuts=False), traffic(case):
                case.wait_for(50)
            assert in_log(server, f"cannot write its metrics to {shared} ")
            assert in_log(server, "Make space there")
            (seen_by(server, shared) / "foreign").unlink()
            assert 0 == settled(case)
            with case.fault(cuts=False):
                change(server, "sh", "-c", FILL, "sh", shared)
                ask_all(case, WORKERS, SWELL)
            with traffic(case):
                case.wait_for(50)
            (seen_by(server, shared) / "foreign").unlink()
            assert 0 == settled(case)
            assert before == server.workers()
            # A full directory does not keep the next owners from the files that are there.
            change(server, "sh", "-c", FILL, "sh", shared)
            replace_workers(case)
            case.send_all(KINDS * 4)
            assert 0 == missing(case)
        swollen = live.labelled(case.scrapes.last, "app_swollen_total").values()
    assert (600, {float(WORKERS)}) == (len(swollen), set(swollen))


@pytest.mark.parametrize("name", servers.BOTH if scale is FULL else servers.BOTH[:1])
def test_a_directory_without_inodes_loses_nothing(name: str, shared: Path) -> None:
    """Workers that find no inode for their files are counted completely once there are some."""
    # The directory itself, the lock file and one more.
    with start(name, shared, "size=4m,nr_inodes=3") as server:
        with Case(f"no inodes, {name}", server, clients=0) as case:
            before = server.workers()
            with case.fault(cuts=False), traffic(case):
                case.wait_for(50)
            said = in_log(server, str(shared))
            assert 0 < missing(case)
            change(server, "mount", "-o", "remount,nr_inodes=50", shared)
            assert 0 == settled(case)
            assert before == server.workers()
    assert said
