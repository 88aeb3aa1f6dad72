"""Workers killed at random under load, masters killed, and workers that their server ends because they hang."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

import live
import pytest
import servers
from chaos import targets
from chaos.referee import Case, Kind
from chaos.scale import instants, scale, some
from processes import in_child

if TYPE_CHECKING:
    from pathlib import Path

KILLED = some(["gunicorn sync", "uwsgi threads", "gunicorn gthread", "uwsgi prefork"])

# Without us too: uWSGI kills the worker, gunicorn has it raise SystemExit, and then answer.
HANGS = {
    "gunicorn sync": (("--timeout", "2", "--graceful-timeout", "1"), Kind("/hang", "/hang", 500, None)),
    "uwsgi prefork": (("--harakiri", "2"), Kind("/hang", "/hang", 200, b"woken")),
}
SETS = 50


@pytest.mark.parametrize("name", KILLED)
def test_workers_killed_at_random_instants_lose_nothing(name: str) -> None:
    """SIGKILL under load: no failed scrape, no counter back, each completed request counted once."""
    random = instants(name)
    with targets.start(name, workers=4) as server:
        with Case(f"SIGKILL of workers, {name}", server) as case:
            case.wait_for(40)
            while case.faults < scale.kills:
                targets.kill_one(case, random.choice)
                time.sleep(random.expovariate(10))
            case.wait_for(40)
    # No more than what was under way in the workers that were killed.
    at_a_time = 1 if name in servers.BOTH else 4
    assert case.figures.in_doubt <= at_a_time * scale.kills


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_worker_killed_while_its_files_are_made_and_grow_loses_nothing(name: str) -> None:
    """SIGKILL during a storm of new label sets: each is there once, and the slot's next owner continues."""
    random = instants(f"storm {name}")
    numbers = count(step=SETS)
    with targets.start(name, workers=2) as server:
        with Case(f"SIGKILL in a storm of label sets, {name}", server, clients=1) as case:
            stormed = []

            def storm() -> None:
                while case.faults < scale.storms:
                    first = next(numbers)
                    if case.send(Kind(f"/storm?from={first}", "/storm", 200, b"stormed")):
                        stormed.append(first)

            with ThreadPoolExecutor(2) as pool:
                storms = [pool.submit(storm) for _ in range(2)]
                while case.faults < scale.storms:
                    time.sleep(random.uniform(0, 0.3))
                    targets.kill_one(case, random.choice)
                for running in storms:
                    running.result()
            case.wait_for(20)
        found = {
            int(dict(labels)["number"]): value
            for labels, value in live.labelled(case.scrapes.last, "app_storm_total").items()
        }

    # One of which the key was written and not yet the value is 0.
    assert set(found.values()) <= {0, 1}
    assert {number: 1 for first in stormed for number in range(first, first + SETS)}.items() <= found.items()


@pytest.mark.parametrize(
    ("name", "options"),
    [("gunicorn sync", ("--timeout", "2")), ("uwsgi prefork", ("--no-orphans",))],
    ids=servers.BOTH,
)
def test_a_master_that_is_killed_leaves_exact_figures_and_a_clean_start(
    name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    """
    After SIGKILL of the master its workers are counted to their end, nothing is left, and the next server starts at 0.
    """
    tmp_path.chmod(0o700)
    directory = str(tmp_path)
    with targets.start(name, *options, workers=3, PROMETHEUS_MULTIPROC_DIR=directory) as server:
        with Case(f"SIGKILL of the master, {name}", server) as case:
            case.wait_for(100)
            with case.unscraped(), case.fault(down=True):
                server.kill(signal.SIGKILL)
                server.wait()
                left = live.eventually(server.processes, lambda pids: not pids)
                case.stop_traffic()
            case.scrapes.read = lambda: in_child(read_directory, tmp_path)
            # Of a server that is gone there are the figures of its slots alone.
            last = case.scrapes.last
            case.scrapes.last = {
                key: last[key] for key in last if not key[0].startswith(("wsgi_worker_", "wsgi_listen_"))
            }
    assert [] == left
    with targets.start(name, *options, workers=3, PROMETHEUS_MULTIPROC_DIR=directory) as server:
        with Case(f"after SIGKILL of the master, {name}", server) as case:
            case.wait_for(20)


def read_directory(path: Path) -> live.Samples:
    from wsgi_prom.exporter.exposition import render
    from wsgi_prom.merge.collector import Collector

    page = render(Collector(path).collect())
    return live.parse_samples(page if isinstance(page, str) else page.decode())


@pytest.mark.parametrize("name", HANGS)
def test_a_worker_that_its_server_ends_since_it_hangs_loses_nothing(name: str) -> None:
    """After harakiri or gunicorn's timeout the client gets what it would without us, and nothing stays in progress."""
    options, hang = HANGS[name]
    with targets.start(name, *options, workers=4) as server:
        with Case(f"hung, {name}", server) as case, ThreadPoolExecutor(2) as pool:
            for _ in range(max(1, scale.storms // 3)):
                with case.fault(2, route=hang.route):
                    list(pool.map(case.send, [hang, hang]))
                case.wait_for(20)
        last = live.eventually(
            server.samples, lambda found: servers.value(found, "http_requests_in_progress") == 0
        )
    assert servers.value(last, "http_requests_in_progress") == 0
