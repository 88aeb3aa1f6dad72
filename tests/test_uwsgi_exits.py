"""Why the workers of uWSGI end, and how many run, as its page says."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import live
import pytest
import servers

if TYPE_CHECKING:
    from pathlib import Path


def exits(server: live.LiveServer) -> dict[str, float]:
    """Return the workers that have ended, by reason."""
    return exits_of(server.samples())


def exits_of(samples: live.Samples) -> dict[str, float]:
    found = live.labelled(samples, "wsgi_worker_exits_total")
    return {dict(labels)["reason"]: count for labels, count in found.items() if count}


def idle(server: live.LiveServer) -> float:
    """Return how many workers are idle for uWSGI too, which sends the body after the application's request has ended."""
    samples = server.samples()
    return min(
        servers.value(samples, "wsgi_workers", state="idle") or 0,
        sum(live.labelled(samples, "uwsgi_worker_idle").values()),
    )


def end(server: live.LiveServer, number: signal.Signals) -> None:
    (worker,) = server.workers()
    os.kill(worker, number)
    live.eventually(server.workers, lambda pids: pids and worker not in pids)


def hang(server: live.LiveServer) -> None:
    with contextlib.suppress(OSError):
        server.get("/sleep?s=60")


def reload_while_it_serves(server: live.LiveServer) -> None:
    thread = threading.Thread(target=server.get, args=("/sleep?s=2",))
    thread.start()
    live.eventually(lambda: idle(server), lambda found: found == 0)
    end(server, signal.SIGHUP)
    thread.join()


# In order; after each there is one more of its reason and no other.
ENDS = {
    "harakiri": [hang, hang],
    "reload": [lambda server: end(server, signal.SIGHUP), reload_while_it_serves],
    "unknown": [lambda server: end(server, signal.SIGKILL)],
    "max_requests": [lambda server: [server.get("/") for _ in range(4)]],
    "SIGSEGV": [lambda server: end(server, signal.SIGSEGV)],
    "SIGTERM": [lambda server: end(server, signal.SIGTERM)],
}
KINDS = {
    "mounts": ("--mount", "/more=plain:app"),
    "lazy-apps, threads": ("--lazy-apps", "--threads", "2"),
    "gevent": ("--gevent", "10"),
}
# After SIGSEGV uWSGI runs nothing of Python's there, and its loop ends by SIGTERM as by SIGHUP.
OF_GREENLETS = {"SIGSEGV": "unknown", "SIGTERM": "reload"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_end_of_a_worker_counts_once_under_its_reason(kind: str) -> None:
    """Harakiris, reloads, recycled workers and signals, one after the other; of a killed worker uWSGI does not tell why."""
    options = [
        "--harakiri",
        "3",
        "--max-requests",
        "5x",  # uWSGI reads the digits that it begins with
        "--min-worker-lifetime",
        "0",
        "--forkbomb-delay",
        "0",
    ]
    expected: dict[str, float] = {}
    with live.uwsgi(*KINDS[kind], *options, workers=1) as server:
        for told, ways in ENDS.items():
            reason = OF_GREENLETS.get(told, told) if kind == "gevent" else told
            for way in ways:
                assert server.get("/").status == 200  # gevent's loop handles signals only when it runs
                live.eventually(lambda: idle(server), lambda found: found == 1)
                way(server)
                expected[reason] = expected.get(reason, 0) + 1
                assert expected == live.eventually(lambda: exits(server), lambda found: found == expected)
        live.eventually(lambda: idle(server), lambda found: found == 1)
        samples = server.samples()
    assert expected == exits_of(samples)
    assert servers.value(samples, "wsgi_worker_starts_total") == sum(expected.values()) + 1


def test_a_worker_that_is_too_young_for_max_requests_ends_by_its_reload() -> None:
    """uWSGI recycles no worker before min-worker-lifetime, 60 s by default: one that has served more requests ends by a reload."""
    with live.uwsgi("--threads", "2", "--max-requests", "2", workers=1) as server:
        for _ in range(4):
            assert server.get("/").status == 200
        end(server, signal.SIGHUP)
        expected = {"reload": 1}
        assert expected == live.eventually(lambda: exits(server), lambda found: found)


def test_a_worker_that_a_reload_of_the_master_has_to_kill_is_not_counted() -> None:
    """One of two ends in order and counts; the other has a request that takes longer than worker-reload-mercy. Later ends count."""
    with contextlib.closing(live.hold_port()) as held:
        options = ["--worker-reload-mercy", "2"]
        with live.uwsgi(*options, workers=2, port=held.getsockname()[1]) as server:
            live.eventually(lambda: idle(server), lambda found: found == 2)
            thread = threading.Thread(target=hang, args=(server,))
            thread.start()
            live.eventually(lambda: idle(server), lambda found: found == 1)
            before = server.workers()
            os.kill(server.pid, signal.SIGHUP)
            thread.join()
            live.eventually(server.workers, lambda pids: len(pids) == 2 and not set(pids) & set(before))
            expected = {"reload": 1}
            assert expected == live.eventually(lambda: exits(server), lambda found: found == expected)
            live.eventually(lambda: idle(server), lambda found: found == 2)
            kill_all(server)
            expected = {"reload": 1, "unknown": 2}
            assert expected == live.eventually(lambda: exits(server), lambda found: found == expected)


def kill_all(server: live.LiveServer) -> None:
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)


def test_a_pool_that_grows_and_shrinks_counts_the_workers_that_it_sent_away(tmp_path: Path) -> None:
    """From 1 to 8 workers and back, twice: 14 were cheaped, and the second time brings no series."""
    fifo = tmp_path / "fifo"
    options = ["--cheaper", "1", "--cheaper-algo", "manual", "--master-fifo", str(fifo), "--processes", "8"]
    seen = []
    with live.uwsgi(*options, workers=1) as server:
        for round_ in (1, 2):
            for number, command in ((8, b"+"), (1, b"-")):
                while len(server.workers()) != number:
                    before = len(server.workers())
                    fifo.write_bytes(command)
                    live.eventually(server.workers, lambda pids, before=before: len(pids) != before)
            live.eventually(lambda: idle(server), lambda found: found == 1)
            assert {"cheaped": 7 * round_} == exits(server)
            seen.append(
                {
                    sample
                    for sample in server.samples()
                    if sample[0].startswith("wsgi_worker_") and sample[0].endswith("_total")
                }
            )
    assert seen[0] == seen[1]


def test_a_reload_of_the_workers_counts_where_the_first_one_was_sent_away(tmp_path: Path) -> None:
    """A pool has shrunk to its second worker, which counts the reload."""
    fifo = tmp_path / "fifo"
    options = [
        "--cheaper",
        "1",
        "--cheaper-initial",
        "2",
        "--cheaper-algo",
        "manual",
        "--master-fifo",
        str(fifo),
    ]
    with live.uwsgi(*options, workers=2) as server:
        live.eventually(lambda: idle(server), lambda found: found == 2)
        first = int(server.wait_for_log(r"spawned uWSGI worker 1 \(pid: (\d+)")[1])
        fifo.write_bytes(b"-")
        (left,) = live.eventually(server.workers, lambda pids: len(pids) == 1)
        assert left != first
        fifo.write_bytes(b"w")
        live.eventually(server.workers, lambda pids: pids and left not in pids)
        counted = live.eventually(lambda: servers.value(server.samples(), "wsgi_reloads_total"), bool)
        assert {"cheaped": 1, "reload": 1} == exits(server)
    assert counted == 1


@pytest.mark.parametrize("options", [(), ("--gevent", "10")], ids=["prefork", "gevent"])
def test_an_application_that_sets_an_atexit_later_has_both_called(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """uWSGI calls one function. The worker's end is counted, and the application's function is called."""
    (tmp_path / "own.py").write_text(
        "import plain, uwsgi, wsgi_prom\napp = wsgi_prom.PrometheusMiddleware(plain.app)\n"
        "def atexit():\n    print('closed', uwsgi.atexit is atexit, flush=True)\nuwsgi.atexit = atexit\n"
    )
    path = f"{tmp_path}:{live.APPS}:{live.ROOT}"
    with live.uwsgi(
        "--lazy-apps", *options, workers=1, app=None, module="own:app", PYTHONPATH=path
    ) as server:
        assert server.get("/").status == 200
        end(server, signal.SIGHUP)
        assert server.wait_for_log("closed True")
        found = live.eventually(lambda: exits(server), bool)
    assert {"reload": 1} == found
