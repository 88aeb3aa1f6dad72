"""Processes that are no web workers join a server's: their figures outlive its restarts, and it theirs."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import joined
import live
import pytest
import servers

from wsgi_prom.store import directory, locks

if TYPE_CHECKING:
    from pathlib import Path


def meeting(by: str, tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Return the variable by which processes meet, and the directory where they do."""
    if by == "variable":
        # The client library needs it when a metric is made, before the process joins.
        (tmp_path / "shared").mkdir(mode=0o700)
        return {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared")}, tmp_path / "shared"
    name, path = joined.new_name()
    return {"WSGI_PROM_NAME": name}, path


@pytest.mark.parametrize(
    ("kind", "by"), [("gunicorn sync", "name"), ("uwsgi prefork", "name"), ("uwsgi prefork", "variable")]
)
def test_counts_of_a_process_that_has_joined_outlive_restarts_of_the_server(
    kind: str, by: str, tmp_path: Path
) -> None:
    """
    What a process counts before the server starts, between two runs of it, in forks, and after it was replaced is on the page.
    """
    variable, path = meeting(by, tmp_path)
    expected = 0
    with joined.joined(**variable) as process:
        for _ in range(2):
            process.tell("DONE.inc(5); LEFT.set(7)")
            with servers.start(kind, workers=2, **variable) as server:
                process.tell("DONE.inc(3)")
                process.tell(joined.FORK)
                assert server.get("/").status == 200
                expected += 9
                samples = server.samples()
                assert expected == servers.value(samples, "jobs_done_total")
                assert 7 == servers.value(samples, "jobs_left")
                assert expected / 9 == sum(live.labelled(samples, "http_requests_total").values())
                assert 1 == servers.value(samples, "wsgi_prom_joined_processes", role="consumer")
                assert 2 == sum(live.labelled(samples, "wsgi_workers").values())
            assert path.exists()
        process.end()
    assert path.exists() if by == "variable" else joined.gone(path)


def test_a_process_that_ends_leaves_its_counts_to_the_server_and_its_successor() -> None:
    """
    What a process has counted stays when it is killed or ends, its successor goes on, and whoever ends last removes the directory.
    """
    name, path = joined.new_name()
    with servers.start("gunicorn sync", workers=1, WSGI_PROM_NAME=name) as server:
        for number, end in enumerate([signal.SIGKILL, signal.SIGTERM, None], 1):
            with joined.joined(WSGI_PROM_NAME=name) as process:
                process.tell("DONE.inc(10); LEFT.set(3)")
                assert 3 == servers.value(server.samples(), "jobs_left")
                process.end(end)
            samples = server.samples()
            assert 10 * number == servers.value(samples, "jobs_done_total")
            assert None is servers.value(samples, "jobs_left")
            assert None is servers.value(samples, "wsgi_prom_joined_processes", role="consumer")
        # The server's worker, and the one that all of these took.
        assert 2 == sum(live.labelled(samples, "wsgi_prom_slots").values())
    assert joined.gone(path)


def test_processes_have_their_role_and_are_no_workers() -> None:
    """The figures of a process that has joined, and of its fork, have its role; those of web workers leave both out."""
    name, _ = joined.new_name()
    with servers.start("gunicorn sync", workers=1, WSGI_PROM_NAME=name) as server:
        with joined.joined(WSGI_PROM_NAME=name) as process:
            process.tell("child = os.fork() or (DONE.inc(), __import__('time').sleep(100))")
            samples = live.eventually(
                server.samples,
                lambda found: servers.value(found, "wsgi_prom_joined_processes", role="consumer") == 2,
            )
            assert [2, 2] == [  # the one that looks at the slot too
                count
                for labels, count in live.labelled(samples, "process_threads").items()
                if ("role", "consumer") in labels
            ]
            assert {("state", "idle"): 1} == {
                label: count
                for labels, count in live.labelled(samples, "wsgi_workers").items()
                for label in labels
                if count
            }
            assert 1 == servers.value(samples, "wsgi_worker_capacity")
            assert 1 == len(live.labelled(samples, "wsgi_worker_start_time_seconds"))
            process.tell("os.kill(child, 9); os.waitpid(child, 0)")


def test_without_a_server_a_process_serves_the_page_itself() -> None:
    """
    With serve=True the page is there without a server, shows the server while one runs, and ends with both.
    """
    name, path = joined.new_name()
    with live.hold_port() as holder:
        bind = f"127.0.0.1:{holder.getsockname()[1]}"
        own = {"WSGI_PROM_NAME": name, "WSGI_PROM_BIND": bind}

        def page() -> live.Samples:
            try:
                return live.parse_samples(live.request(f"http://{bind}/metrics").body.decode())
            except OSError:  # one exporter has ended, and the next is about to listen
                return {}

        def shows_own_alone(samples: live.Samples) -> bool:
            return servers.value(samples, "jobs_done_total") == 4 and not live.labelled(
                samples, "wsgi_workers"
            )

        with joined.joined("wsgi_prom.join(role='cron', serve=True)", **own) as process:
            process.tell("DONE.inc(4)")
            live.eventually(page, shows_own_alone)
            for _ in range(2):
                with servers.start("gunicorn sync", workers=1, **own) as server:
                    live.eventually(page, lambda samples: live.labelled(samples, "wsgi_worker_capacity"))
                    assert server.metrics_url.startswith(f"http://{bind}")
                live.eventually(page, shows_own_alone)
            process.end()
            assert joined.gone(path)


def test_a_process_that_serves_leaves_the_exporter_of_a_server_to_the_server() -> None:
    """With serve=True no exporter is started while a server runs, whose own may be coming up, and one is when it has ended."""
    name, path = joined.new_name()
    lock_file = directory.prepare(path)
    assert lock_file.acquire(locks.SERVERS[0])
    with joined.joined(
        "wsgi_prom.join(serve=True)", WSGI_PROM_NAME=name, WSGI_PROM_BIND="127.0.0.1:0"
    ) as process:
        process.tell("import time; time.sleep(2.5)")
        assert 0 == lock_file.number(locks.LAUNCHED)
        lock_file.release(locks.SERVERS[0])
        assert live.eventually(lambda: lock_file.holder(locks.EXPORTER), bool, live.STOP_SECONDS)
        process.end()
    assert joined.gone(path)


def test_a_directory_that_cannot_be_used_is_told_once_when_a_process_joins() -> None:
    """What is in the place of the directory of a name is told in one line, which says that the process tries again."""
    name, path = joined.new_name()
    path.touch()
    try:
        with joined.joined(WSGI_PROM_NAME=name) as process:
            process.tell("DONE.inc()")
            told = process.end(signal.SIGKILL).splitlines()
    finally:
        path.unlink()
    assert 1 == len(told)
    assert f"(WSGI_PROM_NAME={name!r}) is not a directory." in told[0]
    assert told[0].endswith("retries every second")


def test_a_wrong_setting_of_an_exporter_without_a_server(tmp_path: Path) -> None:
    """The log of an exporter that a process starts for itself names the setting, and no reload: there is no server."""
    name, path = joined.new_name()
    wrong = {"WSGI_PROM_BIND": "127.0.0.1:0", "WSGI_PROM_TOKEN_FILE": str(tmp_path / "none")}
    with joined.joined("wsgi_prom.join(serve=True)", WSGI_PROM_NAME=name, **wrong) as process:
        assert process.until("WSGI_PROM_TOKEN_FILE=").endswith(f"(uid {os.geteuid()}) can read.\n")
        process.end()
    assert joined.gone(path)


def test_a_process_goes_on_where_its_directory_was_removed(tmp_path: Path) -> None:
    """A process that has joined makes its files again, with all that it has counted, while it records nothing."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(shared)}
    with joined.joined(**variables) as process:
        process.tell("DONE.inc(4)")
        shutil.rmtree(shared)
        assert live.eventually((shared / "wsgi_prom.0.values").exists, bool, live.STOP_SECONDS)
        assert "" == process.end()


def test_an_application_of_a_second_interpreter_of_uwsgi_does_not_join(tmp_path: Path) -> None:
    """Where uWSGI has an interpreter for each application, `join` does nothing in any: their processes are the server's."""
    name, path = joined.new_name()
    (tmp_path / "joining.py").write_text("import plain, wsgi_prom\nwsgi_prom.join()\napp = plain.app\n")
    mounts = ("--mount", "/a=joining:app", "--mount", "/b=joining:app", "--manage-script-name")
    with live.uwsgi(*mounts, app=None, workers=1, cwd=tmp_path, WSGI_PROM_NAME=name) as server:
        for mount in ("/a/", "/b/"):
            assert server.get(mount).status == 200
        samples = server.samples()
    assert {} == live.labelled(samples, "wsgi_prom_joined_processes")
    assert "master" in {dict(labels)["role"] for labels in live.labelled(samples, "process_threads")}
    assert joined.gone(path)


def test_a_name_that_no_server_uses_is_told() -> None:
    """A process that joins by a name without a server or exporter says so once; beside one, and one that serves itself, do not."""
    name, _ = joined.new_name()
    told = f"no server or exporter of this user (uid {os.geteuid()}) uses the name {name}: "
    with joined.joined(WSGI_PROM_NAME=name) as process:
        assert 1 == process.end().count(told)
    with live.gunicorn(workers=1, WSGI_PROM_NAME=name) as server:
        server.samples()
        with joined.joined(WSGI_PROM_NAME=name) as process:
            assert told not in process.end()
