"""
PROMETHEUS_MULTIPROC_DIR that others can write to, or that is root's: each user gets a directory of its own below it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import live
import pytest
import servers
from users import needs_root

from wsgi_prom.store import directory_files
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from live import LiveServer

pytestmark = needs_root

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
USER = 33  # www-data


@pytest.fixture
def volume() -> Iterator[Path]:
    """Make a directory of root's that everybody can write to, as Kubernetes makes an emptyDir."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def as_user(server: LiveServer) -> LiveServer:
    """Have *server* started as www-data: a container's user that is not root."""
    server.command[:] = live.for_any_user(
        ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", *server.command]
    )
    os.chown(server.folder, USER, USER)
    return server


def command(uid: int, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run wsgi-prom as *uid*."""
    given = [
        "setpriv",
        "--reuid",
        str(uid),
        "--regid",
        str(uid),
        "--clear-groups",
        str(live.BIN / "wsgi-prom"),
    ]
    return subprocess.run(
        live.for_any_user([*given, *words]), capture_output=True, text=True, timeout=60, check=False, cwd="/",
        env=live.environment(env, runtime=Path("/")),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mode"),
    [("gunicorn sync", 0o777), ("uwsgi prefork", 0o1777)],
    ids=["an emptyDir", "with a sticky bit"],
)
def test_a_server_in_a_volume_that_is_open_to_all(name: str, mode: int, volume: Path) -> None:
    """A server in an open volume starts, logs its directory and counts; the commands find it by the same variable."""
    volume.chmod(mode)
    own = volume / f"wsgi_prom-{USER}"
    with as_user(servers.start(name, workers=2, **{VARIABLE: str(volume)})) as server:
        live.drive(server.url, ["/"] * 40)
        counted = servers.requests_counted(server.samples())
        said = server.wait_for_log(rf"{VARIABLE}={volume} is open to others.*the server uses (\S+),")[1]
        dumped = [command(uid, "dump", **{VARIABLE: str(volume)}).stdout for uid in (USER, 0)]
        reset = command(USER, "reset", **{VARIABLE: str(volume)})
        found = (own.stat().st_uid, stat.filemode(own.stat().st_mode))
    assert {("/", "200"): 40} == counted
    assert [True] * 2 == [
        'http_requests_total{method="GET",route="/",status="200"} 40.0' in page for page in dumped
    ]
    assert str(own) == said
    assert (USER, "drwx------") == found
    assert f"{own} is in use" in reset.stderr
    assert [own.name] == os.listdir(volume)


def test_root_makes_it_for_its_workers(volume: Path) -> None:
    """With gunicorn --user the directory below, and all files in it, belong to the workers' user."""
    user = ("--user", "www-data", "--group", "www-data")
    server = servers.start("gunicorn sync", *user, workers=2, **{VARIABLE: str(volume)})
    server.command[:] = live.for_any_user(server.command)
    with server:
        live.drive(server.url, ["/"] * 20)
        counted = servers.requests_counted(server.samples())
        own = servers.shared_directory(server)
        owners = {found.st_uid for found in (own.stat(), *servers.files(own).values())}
    assert {("/", "200"): 20} == counted
    assert (volume / f"wsgi_prom-{USER}", {USER}) == (own, owners)


def test_processes_by_hand_and_collectors_of_the_application_find_it(
    in_child: Callable[..., Any], volume: Path
) -> None:
    """Without a hook, processes and the client library's collector find the directory below the user's."""

    def run() -> tuple[Path | None, list[float]]:
        from prometheus_client import CollectorRegistry, Counter
        from prometheus_client.multiprocess import MultiProcessCollector

        from wsgi_prom.client import patch

        os.setgid(USER)
        os.setuid(USER)
        os.environ[VARIABLE] = str(volume)
        patch.install()
        Counter("hits", "Hits.", registry=None).inc(3)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(volume))
        return current_slot.directory, [
            sample.value for metric in registry.collect() for sample in metric.samples
        ]

    assert (volume / f"wsgi_prom-{USER}", [3.0]) == in_child(run)


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "owner", "below"),
    [
        (0, 0, 0o755, None, False),
        (0, 0, 0o1777, None, True),
        (0, 0, 0o755, (USER, USER), True),
        (0, 0, 0o700, (USER, USER), False),
        (0, USER, 0o2770, (USER, USER), True),
        (0, 2000, 0o2770, (USER, USER), False),
        (USER, USER, 0o700, (USER, USER), False),
        (USER, USER, 0o770, (USER, USER), False),
        (USER, USER, 0o777, (USER, USER), True),
        (12345, 12345, 0o755, (USER, USER), False),
    ],
)
def test_where_a_directory_of_ones_own_is_used(
    tmp_path: Path, uid: int, gid: int, mode: int, owner: tuple[int, int] | None, below: bool
) -> None:
    """A directory of one's own is used below one that is open to all or root's; else the named directory itself."""
    named = tmp_path / "named"
    named.mkdir()
    os.chown(named, uid, gid)
    named.chmod(mode)
    expected = named / f"wsgi_prom-{USER if owner else 0}" if below else named
    assert expected == directory_files.own_directory(named, owner)
    assert [] == os.listdir(named)


def test_root_is_told_to_choose_among_several_users(volume: Path) -> None:
    """If two users share a volume, a command of root's asks which one is meant."""
    for uid in (USER, 12345):
        (volume / f"wsgi_prom-{uid}").mkdir()
        os.chown(volume / f"wsgi_prom-{uid}", uid, uid)
    done = command(0, "dump", **{VARIABLE: str(volume)})
    assert 0 != done.returncode
    assert [True] * 2 == [f"wsgi_prom-{uid}" in done.stderr for uid in (USER, 12345)]
