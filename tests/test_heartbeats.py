"""How long ago each worker of gunicorn has told its arbiter that it lives."""

from __future__ import annotations

import os
import tempfile
import threading
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import live
import pytest
import servers
from test_workers import by_label, states

from wsgi_prom.merge.readers import Layout, Reading
from wsgi_prom.server.heartbeats import Heartbeats
from wsgi_prom.store.claims import Claim, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "wsgi_worker_heartbeat_age_seconds"
CLASSES = {"sync": (), "gthread": ("--threads", "4"), "gevent": ("--worker-class", "gevent")}


def ages(server: live.LiveServer) -> dict[str, float]:
    return by_label(server.samples(), NAME)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_worker_has_a_heartbeat(kind: str) -> None:
    """Both workers have an age, which stays below half of their timeout, as gunicorn promises its arbiter."""
    with servers.start("gunicorn sync", *CLASSES[kind], "--timeout", "60", workers=2) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 2)
        found = ages(server)
    assert ["0", "1"] == sorted(found)
    assert all(0 <= age < 30 for age in found.values())


def test_the_heartbeat_of_a_worker_that_hangs_gets_older() -> None:
    """The age of a worker that serves one long request passes half of its timeout, and starts again when it answers."""
    with servers.start("gunicorn sync", "--timeout", "8", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        thread = threading.Thread(target=server.get, args=("/sleep?s=6",))
        thread.start()
        live.eventually(lambda: ages(server)["0"], lambda age: age > 4.5)
        thread.join()
        live.eventually(lambda: ages(server)["0"], lambda age: age < 4.5)


def test_a_worker_that_is_replaced_has_the_heartbeat_of_the_next() -> None:
    """A killed worker's age goes, and that of the next has its label."""
    with servers.start("gunicorn sync", "--timeout", "60", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        before = ages(server)
        (killed,) = server.workers()
        server.signal_child(killed, 9)
        live.eventually(server.workers, lambda pids: pids and pids != [killed])
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        after = live.eventually(lambda: ages(server), bool)
    assert list(before) == list(after)


def test_another_server_has_none() -> None:
    """uWSGI's workers have no such figure."""
    with servers.start("uwsgi prefork", workers=1) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        found = ages(server)
    assert {} == found


@pytest.fixture
def heartbeat() -> Iterator[int]:
    fd, name = tempfile.mkstemp(prefix="wgunicorn-")
    Path(name).unlink()
    yield fd
    os.close(fd)


def worker(claim: Claim) -> Reading:
    return Reading(Layout(), array("d").tobytes(), "key", "0", live=True, nonce=1, claim=claim)


def age_of(heartbeats: Heartbeats, claim: Claim) -> list[float]:
    (family,) = heartbeats.families([worker(claim)])
    return [sample.value for sample in family.samples]


def test_the_age_is_that_of_the_last_heartbeat(heartbeat: int) -> None:
    """Older versions of gunicorn change the mode of the file, later ones set its times to those of the monotonic clock."""
    claim = Claim.new()._replace(stage=Stage.SERVING)
    wall = 0.0
    heartbeats = Heartbeats(lambda: 100.0, lambda: wall)
    os.fchmod(heartbeat, 0o001)
    wall = os.fstat(heartbeat).st_ctime + 7
    assert [pytest.approx(7)] == age_of(heartbeats, claim)
    wall = 0.0  # a clock that was set back
    assert [0.0] == age_of(heartbeats, claim)
    os.utime(heartbeat, (95.0, 95.0))
    assert [5.0] == age_of(heartbeats, claim)
    wall += 3600  # no matter now
    assert [5.0] == age_of(heartbeats, claim)


def test_what_cannot_be_told_is_absent(heartbeat: int) -> None:
    """A process that is no worker, an earlier process with the same pid, and one with two such files have no age."""
    claim = Claim.new()._replace(stage=Stage.SERVING)
    others = [claim._replace(stage=Stage.NONE), claim._replace(started=claim.started - 1)]
    assert [[], []] == [age_of(Heartbeats(), other) for other in others]
    with tempfile.NamedTemporaryFile(prefix="wgunicorn-") as second:
        Path(second.name).rename(second.name + ".moved")
        assert 1 == len(age_of(Heartbeats(), claim))  # it has a name still
        Path(second.name + ".moved").unlink()
        assert [] == age_of(Heartbeats(), claim)
        Path(second.name).touch()
    assert heartbeat


def test_a_worker_that_dropped_root_keeps_it_to_itself() -> None:
    """With --user the kernel shows a worker's files to root alone: there is no age, and all else is on the page."""
    hook = "python:wsgi_prom.hooks.gunicorn"
    command = [live.BIN / "gunicorn", "-c", hook, "--bind", "127.0.0.1:0", "--user", "www-data", "plain:app"]
    ready = (r"Booting worker with pid", 1)
    with live.LiveServer(live.for_any_user(command), ready=ready, address=live.GUNICORN_LINE) as server:
        live.eventually(lambda: states(server).get("idle"), lambda idle: idle == 1)
        found = ages(server)
    assert {} == found
