"""The shared directory is removed, emptied, replaced, closed, hidden by a mount or cleaned by age while servers run."""

from __future__ import annotations

import contextlib
import os
import shutil
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import live
import pytest
import servers
from chaos.mounts import change, mounted, seen_by
from chaos.recovery import missing, replace_workers, settled, shown, status, storage_errors, traffic
from chaos.referee import KINDS, Case
from chaos.scale import FULL, scale
from processes import in_child
from prometheus_client import Counter

from wsgi_prom.client import patch
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import environment
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READABLE: Final = "wsgi_prom_directory_readable"

QUIET = dict.fromkeys(servers.UWSGI, ("--forkbomb-delay", "0", "--disable-logging"))


class Place(NamedTuple):
    """
    A case, its directory as its server names it, and as this process finds it.
    """

    case: Case
    path: Path
    here: Path

    def mount(self, *words: str | Path) -> None:
        change(self.case.server, "mount", *words)

    def unmount(self, *words: str | Path) -> None:
        change(self.case.server, "umount", *words)


# Each does its harm up to its yield, and takes the cause away after it, where that does not go away by itself.


def emptied(place: Place) -> Iterator[None]:
    for file in place.here.iterdir():
        file.unlink(missing_ok=True)
    yield


def removed(place: Place) -> Iterator[None]:
    servers.remove(place.here)
    yield


def removed_file_by_file(place: Place) -> Iterator[None]:
    for file in sorted(place.here.iterdir()):
        file.unlink(missing_ok=True)
        place.case.wait_for(20)
    yield


def replaced_by_another(place: Place) -> Iterator[None]:
    place.here.rename(place.here.with_name("aside"))
    # A worker may have been faster.
    place.here.mkdir(0o700, exist_ok=True)
    yield
    servers.remove(place.here.with_name("aside"))


def replaced_by_a_file(place: Place) -> Iterator[None]:
    def replaced() -> bool:
        servers.remove(place.here)
        try:
            place.here.write_bytes(b"not a directory")
        except IsADirectoryError:  # a worker has made it again
            return False
        return True

    assert live.eventually(replaced, bool)
    yield
    place.here.unlink()


def moved_and_put_back(place: Place) -> Iterator[None]:
    aside = place.here.rename(place.here.with_name("aside"))
    yield

    def put_back() -> bool:
        # The workers have made it again by now, or not.
        servers.remove(place.here)
        try:
            aside.rename(place.here)
        except OSError:  # they have just made it
            return False
        return True

    assert live.eventually(put_back, bool)


def hidden(place: Place) -> Iterator[None]:
    place.mount("-t", "tmpfs", "-o", "mode=0700", "chaos", place.path)
    yield
    place.unmount("-l", place.path)


def hidden_by_what_all_can_write(place: Place) -> Iterator[None]:
    place.mount("-t", "tmpfs", "-o", "mode=1777", "chaos", place.path)
    yield
    place.unmount("-l", place.path)


def read_only(place: Place) -> Iterator[None]:
    place.mount("--bind", place.path, place.path)
    place.mount("-o", "remount,bind,ro", place.path)
    yield
    place.unmount("-l", place.path)


def cleaned_by_age(place: Place) -> Iterator[None]:
    config = place.here.with_name("tmpfiles.conf")
    # 0: all that it finds has been there long enough.
    config.write_text(f"e {place.path} - - - 0\n")
    change(place.case.server, "systemd-tmpfiles", "--clean", place.path.with_name(config.name))
    config.unlink()
    yield


def unmounted(place: Place) -> Iterator[None]:
    place.unmount("-l", place.path.parent)
    yield


# The last one for good.
HARMS: Final[list[Callable[[Place], Iterator[None]]]] = [
    emptied,
    removed,
    removed_file_by_file,
    replaced_by_another,
    replaced_by_a_file,
    moved_and_put_back,
    hidden,
    hidden_by_what_all_can_write,
    read_only,
    cleaned_by_age,
    unmounted,
]


@pytest.mark.parametrize("name", servers.BOTH)
def test_whatever_becomes_of_the_directory_nothing_is_lost(name: str, tmp_path: Path) -> None:
    """
    Each harm to the directory under traffic: no request fails, no counter goes back, and in the end each request is
    counted once.
    """
    path = tmp_path / "mount" / "shared"
    path.parent.mkdir()
    server = servers.start(
        name, *QUIET.get(name, ()), app="chaotic:app", workers=2, PROMETHEUS_MULTIPROC_DIR=str(path)
    )
    mounted(server, 'mount -t tmpfs -o size=16m chaos "$1"', path.parent)
    # The short form does each on one of the servers.
    harms = HARMS if scale is FULL else HARMS[servers.BOTH.index(name) :: 2]
    wrong = {}
    with server, Case(f"directory, {name}", server, clients=0) as case:
        before = server.workers()
        for harm in harms:
            place = Place(case, path, seen_by(server, path))
            found = endure(place, harm)
            if found != []:
                wrong[harm.__name__] = found
        assert {} == wrong
        assert before == server.workers()


def endure(place: Place, harm: Callable[[Place], Iterator[None]]) -> list[str]:
    """Do a harm and undo it under traffic; return what was not right meanwhile, and what did not come right."""
    case = place.case
    earlier = missing(case), len(case.scrapes.failed), len(case.scrapes.went_back), len(case.tally.wrong)
    harming = contextlib.contextmanager(harm)
    with traffic(case), case.fault(cuts=False):
        with harming(place):
            # Two looks of each worker.
            after = case.tally.count
            live.latest(lambda: case.tally.count, lambda count: count > after + 100, 2.5)
    lost = settled(case) - earlier[0]
    return [
        *([f"{lost} requests are missing"] if lost else []),
        *case.scrapes.failed[earlier[1] :][:2],
        *case.scrapes.went_back[earlier[2] :][:2],
        *case.tally.wrong[earlier[3] :][:2],
        *([f"readable is {found}"] if (found := shown(case, READABLE)) != 1 else []),
        *([f"ready says {found}"] if (found := status(case, "/-/ready")) != 200 else []),
    ]


@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
def test_files_that_were_put_back_are_counted_once(shared: Path, copied: bool) -> None:
    """A directory that was moved away and put back has old copies of slots, which are not counted twice."""
    aside = shared.with_name("aside")

    def live_through() -> list[float]:
        os.environ[environment.VARIABLE] = str(shared)
        patch.install()
        shown = []
        counter = Counter("hits", "Hits.", registry=None)
        counter.inc()
        collector = Collector(shared)

        def scrape() -> None:
            shown.extend(item.value for metric in collector.collect().to_metrics() for item in metric.samples)

        scrape()
        if copied:
            shutil.copytree(shared, aside)
            shutil.rmtree(shared)
        else:
            shared.rename(aside)
        current_slot.check()
        counter.inc()
        scrape()
        shutil.rmtree(shared)
        aside.rename(shared)
        scrape()
        counter.inc()
        current_slot.check()
        scrape()
        collector = Collector(shared)
        scrape()
        return shown

    assert [1.0, 2.0, 2.0, 3.0, 3.0] == in_child(live_through)


@pytest.mark.parametrize(
    ("name", "own"),
    list(product(servers.BOTH, [False, True]))
    if scale is FULL
    else list(zip(servers.BOTH, [False, True], strict=True)),
)
def test_a_directory_that_is_gone_is_said_to_be(name: str, own: bool, tmp_path: Path) -> None:
    """
    Without a directory the page has the last counters and says that it cannot be read, until a worker makes it again.
    """
    path = str(tmp_path / "shared") if own else None
    with servers.start(name, app="chaotic:app", workers=2, PROMETHEUS_MULTIPROC_DIR=path) as server:
        with Case(f"directory gone, {name}", server, clients=0) as case:
            case.send_all(KINDS * 8)
            assert (1, 200) == (shown(case, READABLE), status(case, "/-/ready"))
            with case.fault(cuts=False):
                servers.remove(servers.shared_directory(server))
            assert (0, 503, 200) == (
                shown(case, READABLE),
                status(case, "/-/ready"),
                status(case, "/-/healthy"),
            )
            assert 0 == missing(case)
            case.send_all(KINDS * 8)
            assert 0 == settled(case)
            assert (1, 200) == (shown(case, READABLE), status(case, "/-/ready"))
            # And so do the next owners of its slots.
            replace_workers(case)
            case.send_all(KINDS * 8)


USER = {
    "gunicorn sync": ("--user", "www-data", "--group", "www-data"),
    "uwsgi prefork": ("--uid", "www-data", "--gid", "www-data"),
}


@pytest.mark.parametrize("name", servers.BOTH if scale is FULL else servers.BOTH[:1])
def test_a_directory_that_is_closed_to_its_user_is_said_to_be(name: str) -> None:
    """
    For a user other than root a directory that is read-only, closed or gone is reported in log and page, and all is
    counted afterwards.
    """
    # Not pytest's folder, which www-data cannot enter.
    path = Path("/srv/parent/shared")
    server = servers.start(
        name,
        *QUIET.get(name, ()),
        *USER[name],
        app="chaotic:app",
        workers=2,
        PROMETHEUS_MULTIPROC_DIR=str(path),
    )
    server.command[:] = live.for_any_user(server.command)
    mounted(server, 'mount -t tmpfs -o mode=0755 chaos /srv; mkdir "$1"; install -d -o www-data -m 700 "$2"',
            path.parent, path)  # fmt: skip
    with server, Case(f"closed directory, {name}", server, clients=0) as case:
        here = seen_by(server, path)
        user = here.stat().st_uid
        said = {}
        for harm in (lambda: here.chmod(0o500), lambda: here.chmod(0), lambda: servers.remove(here)):
            case.send_all(KINDS * 8)
            assert 0 == settled(case)
            logged = server.log().count(str(path))
            with case.fault(cuts=False):
                harm()
                replace_workers(case)
            with traffic(case):
                case.wait_for(50)
            said[len(said)] = (
                shown(case, READABLE),
                status(case, "/-/ready"),
                server.log().count(str(path)) > logged,
            )
            with contextlib.suppress(FileExistsError):
                here.mkdir()
                os.chown(here, user, -1)
            here.chmod(0o700)
            assert 0 == settled(case)
        assert storage_errors(case) >= len(said)
    # What can be read is read, and the new workers have no place of their own.
    assert {0: (1, 200, True), 1: (0, 503, True), 2: (0, 503, True)} == said
