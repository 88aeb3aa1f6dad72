"""Records from forked children, subprocesses, signal handlers, finalizers and greenlets."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import live
import pytest
import servers
from chaos import targets
from chaos.referee import KINDS, Case, Kind
from chaos.scale import instants, scale, some
from processes import in_child

from wsgi_prom.store import directory
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from pathlib import Path

# What each request adds to `app_recorded_total`, by whom.
CHILDREN: dict[str, dict[str, int]] = {
    "/exits": {},
    "/records": {"child": 1},
    "/goes-on": {"later": 1},
    "/multiprocessing": {"multiprocessing": 1},
    "/subprocess": {"subprocess": 1},
    "/program": {"program": 0},
    "/finalizers": {"finalizer": 50},
}
# A handler is the main thread's, and that is not gunicorn's for requests, where it has threads.
HANDLERS = {"/signals": {"handler": 20, "interrupted": 5000}}
GREENLETS = {"/greenlets": {"greenlet": 20}, "/finalizers": {"finalizer": 50}}


def kinds(added: dict[str, dict[str, int]]) -> list[Kind]:
    return [Kind(path, path, 200, b"done") for path in added]


def assert_recorded(case: Case, added: dict[str, dict[str, int]]) -> None:
    """Compare what was recorded with what the completed requests have added, once that is complete."""
    wanted = {
        by: float(amount * case.tally.completed[path, "200"])
        for path, amounts in added.items()
        for by, amount in amounts.items()
    }

    def recorded() -> dict[str, float | None]:
        page = case.page()
        return {by: servers.value(page, "app_recorded_total", by=by) for by in wanted}

    assert wanted == live.eventually(recorded, lambda found: found == wanted)


@pytest.mark.parametrize(
    "name", some(["gunicorn sync", "uwsgi prefork", "gunicorn gthread", "uwsgi lazy-apps"])
)
def test_what_a_request_s_children_and_handlers_record_is_exact(name: str) -> None:
    """
    Forks in a request, multiprocessing, subprocesses, a signal handler and finalizers under gc record exactly, all at
    once.
    """
    added = CHILDREN if "gthread" in name else {**CHILDREN, **HANDLERS}
    # A subprocess takes a hundred times as long as all the rest.
    slow = {"/subprocess", "/program"}
    asked = [kind for kind in kinds(added) if kind.path not in slow] * scale.forks
    asked += [kind for kind in kinds(added) if kind.path in slow] * max(1, scale.forks // 4)
    instants(f"forks {name}").shuffle(asked)
    with targets.start(name, app="forking:app", workers=3) as server:
        with (
            Case(f"forks and handlers, {name}", server, clients=2) as case,
            case.fault(len(asked), cuts=False),
        ):
            case.send_all(asked)
            assert_recorded(case, added)


@pytest.mark.parametrize("name", ["gunicorn gevent", "uwsgi gevent"])
def test_what_greenlets_record_is_exact(name: str) -> None:
    """Greenlets of one worker that record, and requests that are greenlets, are counted exactly."""
    asked = kinds(GREENLETS) * scale.forks * 4
    if name == "gunicorn gevent":
        server = live.gunicorn("forking:app", "--worker-class", "gevent", workers=2)
    else:
        server = live.uwsgi("--gevent", "20", *targets.QUIET, app="forking:app", workers=2)
    with server, Case(f"greenlets, {name}", server, kinds=KINDS, clients=2) as case:
        with case.fault(len(asked), cuts=False):
            case.send_all(asked, clients=8)
            assert_recorded(case, GREENLETS)


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_daemon_does_not_keep_its_dead_parent_s_slot(name: str) -> None:
    """A worker forks a daemon and is killed: the next one takes its slot at once, though the daemon lives."""
    with targets.start(name, app="forking:app", workers=2) as server:
        with Case(f"daemons, {name}", server) as case:
            case.wait_for(20)
            folder = servers.shared_directory(server)
            files = set(servers.worker_files(folder))
            for _ in range(max(1, scale.forks // 4)):
                worker, daemon = map(int, server.get("/daemon").body.split())
                case.tally.completed["/daemon", "200"] += 1
                targets.kill_one(case, lambda _, pid=worker: pid)
                case.wait_for(10)
                holders = live.eventually(
                    lambda: slot_holders(folder), lambda found: found >= set(server.workers())
                )
                assert daemon not in holders
                assert not targets.ended(daemon)
                server.signal_child(daemon, signal.SIGKILL)
            assert files == set(servers.worker_files(folder))


def slot_holders(path: Path) -> set[int]:
    """Return the pids of the processes that hold slots in *path*."""

    def run() -> set[int]:
        found = directory.holders(path, LockFile.of(path))
        return {pid for role, pid in found if role.startswith("slot")}

    return in_child(run)
