"""The stats server that the hook adds to a uWSGI without one."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import live
import servers
from users import needs_root

from wsgi_prom.server import uwsgi_stats
from wsgi_prom.store import stats_socket

if TYPE_CHECKING:
    from pathlib import Path


def counted(server: live.LiveServer) -> float:
    """Return the requests that uWSGI has counted."""
    return sum(live.labelled(server.samples(), "uwsgi_worker_requests_total").values())


def test_a_server_without_a_stats_server_gets_one_until_it_ends() -> None:
    """Its figures are on the page, also after a reload; its user alone can reach it, and nothing of it is left at the end."""
    with closing(live.hold_port()) as held:
        options = ["--chmod-socket=666", "--harakiri", "60"]
        with live.uwsgi(*options, workers=2, port=held.getsockname()[1]) as server:
            folder = servers.shared_directory(server)
            beside = folder.with_name(f"{folder.name}.stats")
            for requests in (3, 2):
                live.drive(server.url, ["/"] * requests)
                live.eventually(lambda: counted(server), lambda found, requests=requests: found == requests)
                modes = [(path.stat().st_mode & 0o777, path.stat().st_uid) for path in (folder, beside)]
                assert [(0o700, os.geteuid())] * 2 == modes
                if requests == 3:
                    os.kill(server.pid, signal.SIGHUP)
                    live.eventually(lambda: counted(server), lambda found: found == 0)
        live.eventually(lambda: folder.exists() or beside.exists(), lambda there: not there)


def test_a_vassal_gets_one_too() -> None:
    """Its page has its own figures, and the ends of its own workers."""
    emperor = live.LiveServer(
        [live.BIN / "uwsgi", "--emperor", "vassals", "--die-on-term"],
        env={"WSGI_PROM_APP": "plain:app"},
        ready=(r"spawned uWSGI worker \d+", 1),
        address=live.UWSGI_LINE,
    )
    lines = ["[uwsgi]", "http-socket = 127.0.0.1:0", "master = true", "shared-import = wsgi_prom.hooks.uwsgi",
             "module = wsgi_prom.wsgi:application", "die-on-term = true", "worker-reload-mercy = 5"]  # fmt: skip
    vassals = emperor.folder / "vassals"
    vassals.mkdir()
    (vassals / "one.ini").write_text("\n".join(lines) + "\n")
    with emperor:
        worker = int(emperor.get("/pid").body)
        live.eventually(lambda: counted(emperor), lambda found: found == 1)
        os.kill(worker, signal.SIGKILL)
        ended = live.eventually(
            lambda: servers.value(emperor.samples(), "wsgi_worker_exits_total", reason="unknown"), bool
        )
    assert ended == 1


def test_an_application_that_removes_the_directory_does_not_end_the_server() -> None:
    """uWSGI binds the socket of its stats server after that, and would end if it could not."""
    with live.uwsgi(app="emptied:app", workers=1) as server:
        assert server.get("/").status == 200
        live.eventually(lambda: counted(server), lambda found: found == 1)


def test_a_directory_of_the_users_gets_none(tmp_path: Path) -> None:
    """No place is known to stay there until uWSGI has bound the socket: its figures are absent, and the log is silent."""
    folder = tmp_path / "shared"
    with live.uwsgi(workers=1, PROMETHEUS_MULTIPROC_DIR=str(folder)) as server:
        server.get("/")
        samples = server.samples()
        assert "no metrics" not in server.log()
    assert [] == [name for name, _ in samples if name.startswith("uwsgi_")]
    assert ["shared"] == [path.name for path in tmp_path.iterdir()]


def test_a_uwsgi_of_abstract_sockets_gets_none() -> None:
    """Everybody on the host could connect to an abstract socket: no permissions protect it."""
    with live.uwsgi("--abstract-socket", workers=1) as server:
        server.get("/")
        samples = server.samples()
        log = server.log()
        folder = servers.shared_directory(server)
        assert not folder.with_name(f"{folder.name}.stats").exists()
    assert [] == [name for name, _ in samples if name.startswith("uwsgi_")]
    assert "Stats server enabled" not in log


def test_a_stats_server_of_the_users_stays() -> None:
    """The page shows its figures, and there is no other."""
    with live.uwsgi("--stats", "own", workers=1) as server:
        folder = servers.shared_directory(server)
        server.get("/")
        live.eventually(lambda: counted(server), lambda found: found == 1)
        assert not folder.with_name(f"{folder.name}.stats").exists()
        stats = uwsgi_stats.read(f"unix:{server.folder}/own", 10)
    assert 1 == stats["workers"][0]["requests"]


@needs_root
def test_a_directory_that_somebody_else_has_made_is_not_used(tmp_path: Path) -> None:
    """Nor is a link followed, when the socket is made or removed."""
    path = tmp_path / "shared"
    beside = tmp_path / "shared.stats"
    beside.mkdir(mode=0o700)
    os.chown(beside, 54321, 54321)
    assert stats_socket.make(path) is None
    beside.rmdir()
    beside.mkdir(mode=0o755)
    assert stats_socket.make(path) is None
    beside.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    beside.symlink_to(tmp_path / "other")
    assert stats_socket.make(path) is None
    (tmp_path / "other" / "stats").touch()
    stats_socket.remove(path)
    assert (tmp_path / "other" / "stats").exists()


def test_a_path_that_is_too_long_is_not_used(tmp_path: Path) -> None:
    """uWSGI would end."""
    assert stats_socket.make(tmp_path / ("x" * 100)) is None


def test_a_socket_that_answers_is_another_servers(tmp_path: Path) -> None:
    """Of two servers that share a name, the second leaves the first one's socket alone, and has none."""
    place = stats_socket.make(tmp_path / "shared")
    assert place is not None
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(place))
        first.listen()
        assert stats_socket.make(tmp_path / "shared") is None
        assert place.exists()
    assert place == stats_socket.make(tmp_path / "shared")
