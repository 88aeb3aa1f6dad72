"""The directory of a name: who makes it, who keeps it, who removes it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import exporters
import joined
import live
import processes
import pytest
import servers

from wsgi_prom import join
from wsgi_prom.errors import SettingError
from wsgi_prom.hooks.server_directory import ServerDirectory
from wsgi_prom.store import directory
from wsgi_prom.store.locks import LockFile
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_a_directory_of_a_name_is_removed_when_nobody_holds_a_slot(tmp_path: Path) -> None:
    """`discard` keeps the directory of a name while a process records there, and that of one server alone does not wait for it."""
    for name, kept in [("wsgi_prom-1.shop", True), (directory.name_temporary().name, False)]:
        path = tmp_path / name
        lock_file = directory.prepare(path)
        with processes.Child(lambda path: SharedSlot.claim(path).number) as child:
            assert 0 == child.call(path)
            assert kept != directory.discard(path, lock_file)
            assert kept == path.exists()
            assert not (kept and lock_file.discarded)
        assert directory.discard(path, lock_file)
        assert not path.exists()


def test_a_process_makes_the_directory_of_its_name_again(in_child: Callable[..., object]) -> None:
    """A process that has joined goes on in a new directory where somebody has removed the one of its name."""
    name, path = joined.new_name()

    def run() -> list[bool]:
        from prometheus_client import Counter

        join(name=name)
        found = [path.exists()]
        lock_file = directory.prepare(path)
        lock_file.mark_discarded()
        subprocess.run(["rm", "-r", path], check=True)
        Counter("again_total", "Counted.", registry=None).inc()
        found.append(live.eventually(lambda: path.exists() and bool(directory.slot_numbers(path)), bool))
        found.append(directory.discard(path, directory.prepare(path)))
        return found

    assert [True, True, True] == in_child(run)


def test_an_exporter_by_hand_keeps_the_directory_of_a_name() -> None:
    """An exporter that was started by hand keeps what jobs count that run alone, each after the other, and removes it at its end."""
    name, path = joined.new_name()
    command = [*exporters.command(path)[:4], "--bind", "127.0.0.1:0"]
    with live.LiveServer(command, env={"WSGI_PROM_NAME": name}, ready=(exporters.LISTENING, 1)) as exporter:
        for number in (1, 2):
            with joined.joined(WSGI_PROM_NAME=name) as process:
                process.tell("DONE.inc()")
                process.end()
            assert number == servers.value(exporter.samples(), "jobs_done_total")
    assert joined.gone(path)


@pytest.mark.parametrize("ended", [True, False])
def test_a_server_that_starts_while_its_directory_is_removed_has_one(
    in_child: Callable[..., object], monkeypatch: pytest.MonkeyPatch, *, ended: bool
) -> None:
    """A server makes the directory of its name anew once it is removed, and goes on in it where the removal was killed."""
    name, path = joined.new_name()
    monkeypatch.setenv("WSGI_PROM_NAME", name)

    def run() -> tuple[bool, bool, bool]:
        directory.prepare(path).mark_discarded()
        removal = threading.Timer(0.2, lambda: ended and shutil.rmtree(path))
        removal.start()
        server = ServerDirectory()
        server.enter(None)
        removal.join()
        lock_file = LockFile.of(path)
        held, discarded = lock_file.mine(server.number or 0), lock_file.discarded
        server.discard()
        return held, discarded, path.exists()

    assert (True, False, False) == in_child(run)


@pytest.mark.parametrize(
    "arguments", [{"name": "a/b"}, {"name": ".."}, {"name": ""}, {"role": "worker"}, {"role": "a b"}]
)
def test_wrong_arguments_are_errors(arguments: dict[str, str]) -> None:
    """A name that is no file's, and a role that is a server's own, are refused."""
    with pytest.raises(SettingError):
        join(**arguments)


def test_a_server_with_a_wrong_name_does_not_start() -> None:
    """A server ends with one line that says which names are right."""
    server = live.gunicorn(workers=1, WSGI_PROM_NAME="a/b")
    with pytest.raises(RuntimeError, match="WSGI_PROM_NAME='a/b' is not a name of up to 64 letters"):
        server.__enter__()


def test_a_process_without_a_directory_goes_on() -> None:
    """A process that finds no directory says so in one line, and goes on."""
    with joined.joined() as process:
        process.tell("DONE.inc()")
        (line,) = process.end().splitlines()
        assert "wsgi_prom: the metrics of this process are on no page" in line


def test_a_name_that_is_not_used_is_told(tmp_path: Path) -> None:
    """Where a name and another directory are given, a process joins in the directory, and says so, once with all its forks."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    with joined.joined(WSGI_PROM_NAME="shop", PROMETHEUS_MULTIPROC_DIR=str(shared)) as process:
        process.tell(joined.FORK)
        (line,) = process.end().splitlines()
    assert f"the name shop is not used: this process joins those of {shared}" in line
    assert directory.slot_numbers(shared)


@pytest.fixture
def foreign() -> Iterator[tuple[str, Path]]:
    """A name, and its directory, which another user has made."""
    name, path = joined.new_name()
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    yield name, path
    path.rmdir()


def test_a_name_that_another_user_has_taken_is_told(foreign: tuple[str, Path]) -> None:
    """The message names the setting that was set, the variable or the keyword, and not that of another directory."""
    name, path = foreign
    told = "belongs to uid 12345, the workers run as uid 0. Remove it, or choose another name."
    with live.gunicorn(workers=1, WSGI_PROM_NAME=name) as server:
        assert f"{path} (WSGI_PROM_NAME={name!r}) {told}" in server.log()
        assert "MULTIPROC" not in server.log()
    for first, env, setting in [
        ("wsgi_prom.join()", {"WSGI_PROM_NAME": name}, "WSGI_PROM_NAME"),
        (f"wsgi_prom.join(name={name!r})", {}, "name"),
    ]:
        with joined.joined(first, **env) as process:
            log = process.end()
        assert f"{path} ({setting}={name!r}) {told}" in log
        assert "MULTIPROC" not in log


def test_a_process_that_is_to_serve_says_why_nobody_does() -> None:
    """With WSGI_PROM_BIND=off, of the process or of its server, `join(serve=True)` says that there is no exporter."""
    name, _ = joined.new_name()
    first = f"wsgi_prom.join(name={name!r}, serve=True)"
    with joined.joined(first, WSGI_PROM_BIND="off") as process:
        assert "join(serve=True) starts no exporter, since WSGI_PROM_BIND is off" in process.end()
    with live.gunicorn(workers=1, WSGI_PROM_NAME=name, WSGI_PROM_BIND="off"), joined.joined(first) as process:
        assert "the server that this process has joined has no exporter" in process.until("nobody serves")


def test_a_module_that_joins_may_be_imported_by_the_server(tmp_path: Path) -> None:
    """In a server's master and workers `join` does nothing: they are workers as ever."""
    name, path = joined.new_name()
    (tmp_path / "joining.py").write_text("import plain, wsgi_prom\nwsgi_prom.join()\napp = plain.app\n")
    for options in ([], ["--preload"]):
        with live.gunicorn("joining:app", *options, workers=2, cwd=tmp_path, WSGI_PROM_NAME=name) as server:
            assert server.get("/").status == 200
            samples = server.samples()
            assert {} == live.labelled(samples, "wsgi_prom_joined_processes")
            assert 2 == sum(live.labelled(samples, "wsgi_workers").values())
        assert joined.gone(path)


def test_a_server_that_is_run_as_a_program_has_its_workers() -> None:
    """A server with its hook that `wsgi-prom run` has started is a server, and nobody has joined it."""
    name, path = joined.new_name()
    server = live.gunicorn(workers=2, WSGI_PROM_NAME=name)
    server.command[:0] = [str(live.BIN / "wsgi-prom"), "run", "--role", "mistaken", "--"]
    with server:
        assert server.get("/").status == 200
        samples = server.samples()
        assert 0 == sum(live.labelled(samples, "wsgi_prom_joined_processes").values())
        assert 2 == sum(live.labelled(samples, "wsgi_workers").values())
        roles = {dict(labels)["role"] for labels in live.labelled(samples, "process_threads")}
        assert {"worker", "master", "exporter", "supervisor"} == roles
    assert joined.gone(path)


def test_a_directory_that_another_user_has_put_there_is_not_used() -> None:
    """A server whose directory of its name is another user's serves its application, and says that there are no metrics."""
    if os.geteuid() != 0:
        raise PermissionError("os.chown: Operation not permitted")
    name, path = joined.new_name()
    path.mkdir(mode=0o777)
    os.chown(path, 65534, 65534)
    try:
        with live.gunicorn(workers=1, WSGI_PROM_NAME=name) as server:
            server.wait_for_log("no metrics")
            assert server.get("/").status == 200
        assert [] == os.listdir(path)
    finally:
        path.rmdir()


def test_the_directory_of_a_name_goes_with_a_killed_master() -> None:
    """When the master of gunicorn was killed, the exporter removes the directory of its name once the workers have ended too."""
    name, path = joined.new_name()
    with live.gunicorn("plain:app", "--timeout", "4", workers=1, WSGI_PROM_NAME=name) as server:
        assert server.get("/").status == 200
        server.kill(signal.SIGKILL)
        assert joined.gone(path)
