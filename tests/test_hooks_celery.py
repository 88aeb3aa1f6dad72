"""The hook of Celery, with real workers and a real Redis: tasks are counted once, whatever ends a child, a worker or the web server."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import brokers
import joined
import live
import pytest
import servers
from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Return the URL of a Redis. Its folder has a short path, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, brokers.redis(Path(folder)) as place:
        yield f"redis+socket://{place}"


class Queue:
    """A queue of its own of the *broker*, whose workers share the name of a web server."""

    def __init__(self, broker: str, **env: str) -> None:
        name, self.path = joined.new_name()
        self.name = {"WSGI_PROM_NAME": name}
        self.client = Celery(broker=broker, set_as_current=False)
        self._env = {"BROKER": broker, "QUEUE": name, **self.name, **env}

    def worker(self, *options: str) -> live.LiveServer:
        return self._celery(
            "worker", "--without-mingle", "--without-gossip", *options, ready=r"celery@\S+ ready"
        )

    def beat(self, folder: Path) -> live.LiveServer:
        return self._celery("beat", "--schedule", str(folder / "schedule"), ready="beat: Starting")

    def _celery(self, *words: str, ready: str) -> live.LiveServer:
        command = [live.BIN / "celery", "-A", "queued", *words, "--loglevel", "INFO"]
        return live.LiveServer(command, cwd=live.APPS, env=self._env, ready=(ready, 1))

    def send(self, task: str, *arguments: object, times: int = 1) -> str:
        """Send *task*, as a process does that does not import it, and return the id of the last."""
        for _ in range(times):
            sent = self.client.send_task(f"queued.{task}", arguments, queue=self._env["QUEUE"])
        return sent.id


def states(samples: live.Samples) -> dict[str, dict[str, float]]:
    """Return the counts of tasks that are not 0, by task and state."""
    found: dict[str, dict[str, float]] = {}
    for labels, count in live.labelled(samples, "celery_tasks_total").items():
        if count:
            found.setdefault(dict(labels)["task"].removeprefix("queued."), {})[dict(labels)["state"]] = count
    return found


def once(server: live.LiveServer, task: str, expected: dict[str, float]) -> live.Samples:
    """Wait until *task* was counted as *expected*, and return the page."""
    samples = live.eventually(server.samples, lambda found: states(found).get(task) == expected, 100)
    assert expected == states(samples).get(task)
    return samples


def waiting(server: live.LiveServer) -> Callable[[], float | None]:
    return lambda: servers.value(server.samples(), "celery_tasks_in_progress", task="queued.wait")


def test_tasks_of_recycled_children_are_counted_across_restarts(broker: str) -> None:
    """
    Children end after each task; the web server restarts; the worker is killed: each task is counted once, in bounded slots.
    """
    queue = Queue(broker)
    with queue.worker("--concurrency", "8", "--max-tasks-per-child", "1") as worker:
        for total in (16, 32):
            queue.send("add", 2, times=8)
            with servers.start("gunicorn sync", workers=1, **queue.name) as server:
                queue.send("add", 2, times=8)
                samples = once(server, "add", {"SUCCESS": total})
        assert 64 == servers.value(samples, "queued_added_total")
        assert 32 == servers.value(samples, "celery_task_duration_seconds_count", task="queued.add")
        # A web worker, the worker's main process, its children, and as many that are about to end.
        assert 18 >= sum(live.labelled(samples, "wsgi_prom_slots").values())
        with servers.start("gunicorn sync", workers=1, **queue.name) as server:
            worker.kill(signal.SIGKILL)
            assert worker.wait() == -signal.SIGKILL
            with queue.worker("--concurrency", "2"):
                queue.send("add", 2, times=10)
                samples = once(server, "add", {"SUCCESS": 42})
                assert 84 == servers.value(samples, "queued_added_total")
                assert 1 == sum(live.labelled(samples, "wsgi_workers").values())
                assert 0 == sum(live.labelled(samples, "celery_tasks_in_progress").values())
            assert {"add": {"SUCCESS": 42}} == states(server.samples())
    assert joined.gone(queue.path)


def asked(samples: live.Samples) -> set[int]:
    """Return the pids of the processes in which the application's collector was asked."""
    return {int(dict(labels)["process"]) for labels in live.labelled(samples, "queued_asked")}


def test_collectors_are_asked_where_tasks_run(broker: str) -> None:
    """The children of a pool ask the application's collectors, not the main process once it forks them."""
    queue = Queue(broker)
    with (
        servers.start("gunicorn sync", workers=1, **queue.name) as server,
        queue.worker("--concurrency", "2") as worker,
    ):
        # What the main process has told before it forked is shown for 15 s.
        found = live.eventually(
            lambda: asked(server.samples()),
            lambda found: len(found) == 2 and worker.pid not in found,
            40,
        )
        assert (2, 2) == (len(found), len(found - {worker.pid}))


def test_each_end_of_a_task_has_its_state(broker: str) -> None:
    """Failures, retries, rejected, ignored, lost, late and unknown tasks are each counted once; a task that is called directly is not."""
    queue = Queue(broker)
    expected = {
        "add": {"SUCCESS": 1},
        "fail": {"FAILURE": 2},
        "again": {"RETRY": 2, "SUCCESS": 1},
        "reject": {"REJECTED": 1},
        "ignore": {"IGNORED": 1},
        "lose": {"FAILURE": 1},
        "restart": {"RETRY": 1, "SUCCESS": 1},
        "hang": {"FAILURE": 1},
        "requeue": {"FAILURE": 1, "SUCCESS": 1},
        "eager": {"SUCCESS": 1},
        "OTHER": {"FAILURE": 2},
    }
    with (
        servers.start("gunicorn sync", workers=1, **queue.name) as server,
        queue.worker("--concurrency", "2"),
    ):
        queue.send("fail", times=2)
        for task in (
            "again",
            "reject",
            "ignore",
            "lose",
            "restart",
            "hang",
            "requeue",
            "eager",
            "unknown",
            "unknown2",
        ):
            queue.send(task)
        queue.send("add", 1)
        samples = live.eventually(server.samples, lambda found: states(found) == expected, live.STOP_SECONDS)
        assert expected == states(samples)
        exceptions = {
            (dict(labels)["task"].removeprefix("queued."), dict(labels)["exception"]): count
            for labels, count in live.labelled(samples, "celery_task_exceptions_total").items()
        }
        assert {
            ("fail", "ValueError"): 2,
            ("lose", "WorkerLostError"): 1,
            ("hang", "TimeLimitExceeded"): 1,
            ("requeue", "TimeLimitExceeded"): 1,
        } == exceptions
        assert 0 == sum(live.labelled(samples, "celery_tasks_in_progress").values())
        # Before its first failure.
        assert 0 == servers.value(samples, "celery_tasks_total", task="queued.add", state="FAILURE")
        sent = queue.send("wait", 100)
        assert 1 == live.eventually(waiting(server), bool, live.STOP_SECONDS)
        queue.client.control.revoke(sent, terminate=True)
        samples = once(server, "wait", {"REVOKED": 1})
        assert not live.eventually(waiting(server), lambda found: not found, live.STOP_SECONDS)


def test_every_pool_is_counted(broker: str) -> None:
    """
    Pools without children count too, and time tasks that overlap each for itself, with the hook loaded by the worker's command.

    Of these, gevent has hard time limits.
    """
    queue = Queue(broker, UNHOOKED="1")
    expected: dict[str, dict[str, float]] = {}
    with servers.start("gunicorn sync", workers=1, **queue.name) as server:
        for number, pool in enumerate(("threads", "gevent", "solo"), 1):
            with queue.worker(
                "--pool", pool, "--concurrency", "4", "--include", "wsgi_prom.hooks.celery"
            ) as worker:
                queue.send("wait", 0.2, times=4)
                queue.send("fail", times=3)
                expected |= {"wait": {"SUCCESS": 4 * number}, "fail": {"FAILURE": 3 * number}}
                if pool == "gevent":
                    queue.send("hang")
                    expected["hang"] = {"FAILURE": 1}
                live.eventually(lambda: states(server.samples()), expected.__eq__)
                samples = server.samples()
                assert 0 == sum(live.labelled(samples, "celery_tasks_in_progress").values())
                spent = servers.value(samples, "celery_task_duration_seconds_sum", task="queued.wait")
                assert spent is not None
                assert spent >= 0.8 * number
                assert 1 == servers.value(samples, "wsgi_prom_joined_processes", role="celery")
                live.eventually(lambda: asked(server.samples()), {worker.pid}.__eq__)


def test_beat_joins(broker: str, tmp_path: Path) -> None:
    """Beat has its role on the page, and a process that only sends tasks has none."""
    queue = Queue(broker)
    with servers.start("gunicorn sync", workers=1, **queue.name) as server, queue.beat(tmp_path):
        queue.send("add", 1)
        samples = live.eventually(
            server.samples,
            lambda found: live.labelled(found, "wsgi_prom_joined_processes"),
            live.STOP_SECONDS,
        )
        assert {frozenset({("role", "beat")}): 1} == live.labelled(samples, "wsgi_prom_joined_processes")
