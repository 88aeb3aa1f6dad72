"""Storms of reloads under traffic: nothing is lost, nothing fails, and one exporter answers throughout."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import live
import pytest
import servers
from chaos import targets
from chaos.referee import Case
from chaos.scale import instants, scale, some

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 2


def hang_up(server: live.LiveServer) -> None:
    server.kill(signal.SIGHUP)


def touch(server: live.LiveServer) -> None:
    # A touch while a chain is under way is one for nothing.
    assert live.eventually(lambda: chains(server), lambda found: found[0] == found[1])
    # uWSGI compares whole seconds.
    seconds = (server.folder / "reload").stat().st_mtime + 1
    os.utime(server.folder / "reload", (seconds, seconds))


def chains(server: live.LiveServer) -> tuple[int, int]:
    """Return how many chain reloads have begun and how many have ended."""
    log = server.log()
    return log.count("touched... chain reload !!!"), log.count("chain reloading complete")


# One that is reloaded by a file looks at it once a second.
REPLACED: dict[str, tuple[str, tuple[str, ...], Callable[[live.LiveServer], None]]] = {
    "gunicorn HUP": ("gunicorn sync", (), hang_up),
    "gunicorn gthread preload HUP": ("gunicorn gthread preload", (), hang_up),
    "uwsgi SIGHUP": ("uwsgi prefork", (), hang_up),
    "uwsgi chain reload": ("uwsgi lazy-apps", ("--touch-chain-reload", "reload"), touch),
}


@pytest.mark.parametrize("way", REPLACED)
def test_reloads_that_replace_all_workers_lose_nothing(way: str) -> None:
    """Reloads in quick succession, even before the last one is over, lose nothing."""
    name, options, reload = REPLACED[way]
    random = instants(way)
    with contextlib.closing(live.hold_port()) as held:
        # uWSGI would bind another port that the system chooses.
        port = {"port": held.getsockname()[1]} if name in servers.UWSGI else {}
        server = targets.start(name, *options, workers=WORKERS, **port)
        (server.folder / "reload").touch()
        os.utime(server.folder / "reload", (10**9, 10**9))
        with server, Case(f"reloads, {way}", server) as case:
            exporters = servers.exporters(server)
            for _ in range(scale.slow_reloads if reload is touch else scale.reloads):
                case.wait_for(5)
                before = set(server.workers())
                with case.fault(cuts=False):
                    reload(server)
                    if name in servers.UWSGI:
                        assert replaced(server, before), server.workers()
                        assert live.eventually(lambda: all_answer(case), bool)
                    elif random.random() < 0.8:
                        assert replaced(server, before), server.workers()
                    else:
                        time.sleep(random.uniform(0, 0.5))
            assert live.eventually(lambda: len(server.workers()), lambda found: found == WORKERS) == WORKERS
            case.wait_for(20)
            assert exporters == servers.exporters(server)


def replaced(server: live.LiveServer, before: set[int]) -> bool:
    return live.eventually(
        lambda: len(server.workers()) == WORKERS and not before & set(server.workers()), bool
    )


def all_answer(case: Case) -> bool:
    """
    Return whether each worker has answered. One of uWSGI's that has not is not told to end by the next reload, serves
    on, and is killed in the midst of a request when its mercy has run out ("NO MERCY", seen in 1 of 50 reloads in
    haste).
    """
    found = set()
    for _ in range(10 * WORKERS):
        found.add(int(case.server.get("/pid").body))
        case.tally.completed["/pid", "200"] += 1
    return found >= set(case.server.workers())


@pytest.mark.parametrize("name", some(["gunicorn sync", "gunicorn gthread preload"]))
def test_arbiters_that_replace_each_other_lose_nothing(name: str) -> None:
    """After repeated USR2 upgrades the counters are those of the first arbiter."""
    with targets.start(name, workers=WORKERS) as server:
        with Case(f"reloads, {name} USR2", server) as case:
            arbiter, exporters = server.pid, servers.exporters(server)
            for number in range(1, scale.reloads + 1):
                case.wait_for(5)
                with case.fault(cuts=False):
                    server.signal_child(arbiter, signal.SIGUSR2)
                    booted = live.eventually(
                        lambda: server.log().count("Booting worker with pid"),
                        lambda found, wanted=WORKERS * (number + 1): found >= wanted,
                    )
                    assert booted == WORKERS * (number + 1)
                    new = int(re.findall(r"Listening at: .* \((\d+)\)", server.log())[-1])
                    # Workers take their place a moment after they are said to boot.
                    case.wait_for(20)
                    server.signal_child(arbiter, signal.SIGTERM)
                    assert live.eventually(lambda old=arbiter: targets.ended(old), bool)
                    # Before it has noticed that, it ignores another USR2.
                    live.eventually(server.log, lambda log, n=number: log.count("been promoted") == n)
                    arbiter = new
            case.wait_for(20)
            assert exporters == servers.exporters(server)
        server.signal_child(arbiter, signal.SIGTERM)
        assert [] == live.eventually(server.processes, lambda pids: not pids)


def test_workers_that_come_and_go_one_by_one_lose_nothing() -> None:
    """gunicorn's TTIN and TTOU: the slots grow and shrink with the pool, and nothing is lost."""
    random = instants("TTIN")
    with targets.start("gunicorn sync", workers=WORKERS) as server:
        with Case("reloads, gunicorn TTIN and TTOU", server) as case:
            wanted = WORKERS
            for _ in range(scale.reloads):
                case.wait_for(5)
                step = random.choice([-1, 1]) if 1 < wanted < 6 else 1 if wanted == 1 else -1
                wanted += step
                with case.fault(cuts=False):
                    server.kill(signal.SIGTTIN if step == 1 else signal.SIGTTOU)
                    assert live.eventually(server.workers, lambda pids, n=wanted: len(pids) == n)
            case.wait_for(20)
            slots = len(list(servers.shared_directory(server).glob("*.values")))
    assert slots <= 7


def test_a_cheaper_pool_loses_nothing() -> None:
    """uWSGI's cheaper mode starts and ends workers on command, and nothing is lost."""
    random = instants("cheaper")
    options = ("--cheaper", "1", "--processes", "4", "--master-fifo", "fifo")
    with targets.start("uwsgi prefork", *options, workers=1) as server:
        with Case("reloads, uwsgi cheaper", server) as case:
            wanted = 1
            for _ in range(scale.slow_reloads):
                case.wait_for(5)
                step = random.choice([-1, 1]) if 1 < wanted < 4 else 1 if wanted == 1 else -1
                wanted += step
                with case.fault(cuts=False):
                    (server.folder / "fifo").write_text("+" if step == 1 else "-")
                    # uWSGI's own algorithm has a say too.
                    found = live.latest(server.workers, lambda pids, n=wanted: len(pids) == n, 5)
                    wanted = max(len(found), 1)
            case.wait_for(20)
