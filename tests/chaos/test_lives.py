"""Thousands of workers, one after the other, on one directory: neither the directory nor a scrape grows."""

from __future__ import annotations

import os
import random as stdlib_random
import select
import signal
import statistics
import time
import warnings
from typing import TYPE_CHECKING

import live
import processes
import pytest
import servers
from chaos import referee, targets
from chaos.referee import Case, Figures
from chaos.scale import SEED, scale

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BATCH = 500


def answer(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
    environ["wsgi_prom.route"] = "/"
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


class Master:
    """
    A process that has one worker at a time. Each answers one request, and then exits, or is killed at once, or is
    killed at any instant from its fork on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._random = stdlib_random.Random(f"{SEED} lives")
        self._app: Callable[..., object] | None = None

    def prepare(self) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._path)

        from wsgi_prom import PrometheusMiddleware

        self._app = PrometheusMiddleware(answer)
        from prometheus_client import Counter

        self._lives = Counter("app_lives_total", "Lives.")

    def live(self, count: int) -> tuple[int, int]:
        """Have *count* workers, and return how many requests were completed and how many are in doubt."""
        if self._app is None:
            self.prepare()
        completed = in_doubt = 0
        for number in range(count):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                self._work(writer, killed=number % 3 == 1)
            os.close(writer)
            if number % 3 == 2:
                # Not by select, which knows no descriptor beyond 1023: other tests may have left that many.
                waiting = select.poll()
                waiting.register(reader, select.POLLIN)
                waiting.poll(self._random.uniform(0, 4))
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done = os.read(reader, 1) == b"."
            os.close(reader)
            completed += done
            in_doubt += not done
        return completed, in_doubt

    def _work(self, writer: int, *, killed: bool) -> None:
        assert self._app is not None
        try:
            self._app({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": None}, lambda *_: print)
            self._lives.inc()
            os.write(writer, b".")
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)

    def scrape(self) -> tuple[live.Samples, int, float]:
        """Return a page, its bytes, and how long a new collector takes for one, the median of some."""
        from wsgi_prom.exporter.exposition import render
        from wsgi_prom.merge.collector import Collector

        def collect() -> tuple[str, float]:
            started = time.perf_counter()
            page = render(Collector(self._path).collect())
            return page, time.perf_counter() - started

        taken = [collect() for _ in range(15)]
        return live.parse_samples(taken[0][0]), len(taken[0][0]), statistics.median(time for _, time in taken)


def contents(path: Path) -> dict[str, int]:
    return {item.name: item.stat().st_size for item in path.iterdir()}


@pytest.mark.parametrize("count", [scale.lives])
def test_a_directory_after_thousands_of_lives_is_as_after_ten(tmp_path: Path, count: int) -> None:
    """
    After thousands of workers the directory has the same files of the same length as after ten, and each request is
    counted.
    """
    path = tmp_path / "shared"
    master = Master(path)
    began = time.monotonic()

    def obey(method: str, *arguments: object) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return getattr(master, method)(*arguments)

    with processes.Child(obey) as child:
        completed, in_doubt = child.call("live", 10)
        first_files, (first, _, first_time) = contents(path), child.call("scrape")
        for done in range(10, count, BATCH):
            more = child.call("live", min(BATCH, count - done))
            completed, in_doubt = completed + more[0], in_doubt + more[1]
        last_files, (last, _, last_time) = contents(path), child.call("scrape")

    counted = servers.requests_counted(last)[("/", "200")]
    lives = servers.value(last, "app_lives_total")
    referee.file(
        Figures(
            "lives one after the other",
            faults=count,
            requests=completed + in_doubt,
            lost=max(0, completed - int(min(counted, lives))),
            doubled=max(0, int(max(counted, lives)) - completed - in_doubt),
            in_doubt=in_doubt,
            scrapes=2,
            went_back=len(servers.gone_back(first, last)),
            seconds=round(time.monotonic() - began, 1),
        )
    )
    print(f"scrape after 10 lives {first_time * 1e3:.2f} ms, after {count} {last_time * 1e3:.2f} ms")
    assert first_files == last_files
    assert set(first) == set(last)
    assert completed <= counted <= completed + in_doubt
    assert completed <= lives <= completed + in_doubt
    assert completed > count / 2


LIMITED = {
    "gunicorn sync": ("--max-requests", "1"),
    "uwsgi prefork": ("--max-requests", "1", "--min-worker-lifetime", "0"),
}


@pytest.mark.parametrize("name", LIMITED)
def test_workers_of_one_request_each_are_counted_and_leave_nothing(name: str) -> None:
    """With max-requests of 1 no request fails, there are as many slots as workers at a time, and each end is counted once."""
    with targets.start(name, *LIMITED[name], workers=2) as server:
        with Case(f"lives of one request, {name}", server, clients=2) as case:
            directory = servers.shared_directory(server)
            with case.fault(scale.server_lives, cuts=False):
                case.wait_for(scale.server_lives)
            slots = len(list(directory.glob("*.values")))
        last = live.eventually(server.samples, lambda found: starts(found) == 2 + sum(ends(found).values()))
    # A worker may start before the former has let go of its slot, and the master has one for what it imported.
    assert slots <= 4
    assert starts(last) - 2 == sum(ends(last).values())
    # gunicorn does not say why a worker has ended that ends while it looks.
    assert ends(last).keys() <= {"max_requests", "unknown"}
    assert ends(last)["max_requests"] > scale.server_lives / 2
    assert starts(last) > scale.server_lives
    workers = {dict(labels).get("worker") for name, labels in last if name.startswith("wsgi_worker")}
    assert workers <= {None, "0", "1", "2", "3"}


def starts(samples: live.Samples) -> float:
    return servers.value(samples, "wsgi_worker_starts_total") or 0


def ends(samples: live.Samples) -> dict[str, float]:
    """Return the workers that have ended, by reason."""
    found = live.labelled(samples, "wsgi_worker_exits_total")
    return {dict(labels)["reason"]: count for labels, count in found.items() if count}
