"""The shared directory: made and cleared without a change to foreign files, and refused with a reason and a remedy."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes
import pytest
from users import needs_root

from wsgi_prom.errors import DirectoryError
from wsgi_prom.store import directory, environment, locks, schemas
from wsgi_prom.store.slots import SharedSlot

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsgi_prom.store.locks import LockFile

NOBODY = 65534
OURS = [
    "wsgi_prom.0.keys",
    "wsgi_prom.0.values",
    "wsgi_prom.12.values",
    "wsgi_prom.7.keys.bad",
    "wsgi_prom.7.values.bad",
    "counter_123.db",
    "summary_1.db",
    "histogram_4567.db",
    "gauge_all_1.db",
    "gauge_livesum_99.db",
    "gauge_livemostrecent_99.db",
    "gauge_min_worker_1.db",
]
NOT_OURS = [
    "notes.txt",
    "data.db",
    "gauge_1.db",
    "gauge_average_1.db",
    "counter_1.db.bak",
    "my_counter_1.db",
    "wsgi_prom.0.keys.old",
    "wsgi_prom.00.keys",
    "wsgi_prom.x.values",
    "wsgi_prom.-1.values",
    "wsgi_prom.1.values\n",
    "wsgi_prom.٣.values",
    "wsgi_prom",
    ".hidden",
]


def fill(path: Path) -> LockFile:
    lock_file = directory.prepare(path)
    for name in OURS + NOT_OURS:
        (path / name).write_text(name)
    return lock_file


def claimed(path: Path) -> tuple[processes.Child, int]:
    """Return a process that holds a slot of *path*, and the slot's number."""
    kept: list[SharedSlot] = []

    def claim() -> int:
        kept.append(SharedSlot.claim(path))
        kept[-1].row(schemas.counter("hits", "", ()), ())
        return kept[-1].number

    child = processes.Child(claim)
    return child, child.call()


def test_prepare_makes_what_is_missing(shared: Path) -> None:
    """`prepare` makes the directory and its parents, for their owner alone, whatever the umask."""
    path = shared / "deep" / "er"
    before = os.umask(0)
    try:
        lock_file = directory.prepare(path)
    finally:
        os.umask(before)
    assert 0o700 == stat.S_IMODE(path.stat().st_mode)
    assert 0o600 == stat.S_IMODE((path / locks.NAME).stat().st_mode)
    assert lock_file is directory.prepare(path)


def test_prepare_changes_nothing_that_is_there(shared: Path) -> None:
    """
    A second start finds every file as it was.
    """
    fill(shared)
    directory.prepare(shared)
    assert sorted([*OURS, *NOT_OURS, locks.NAME]) == sorted(os.listdir(shared))


@needs_root
def test_prepare_gives_the_directory_to_the_workers_user(shared: Path) -> None:
    """A directory that root makes for workers of another user is that user's, and so is its lock file."""
    directory.prepare(shared, owner=(NOBODY, NOBODY))
    assert NOBODY == shared.stat().st_uid
    assert NOBODY == (shared / locks.NAME).stat().st_uid
    directory.prepare(shared, owner=(NOBODY, NOBODY))


def refused(path: Path, *arguments: Any, **options: Any) -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DirectoryError) as caught:
        patch.setenv(environment.VARIABLE, str(path))
        directory.prepare(path, *arguments, **options)
    message = str(caught.value)
    assert f"{environment.VARIABLE}={str(path)!r}" in message
    assert "Name a directory" in message
    return message


def test_another_owners_directory_is_refused(shared: Path) -> None:
    """The error for another user's directory names the directory, its owner, the caller and the remedy."""
    shared.mkdir(mode=0o700)
    os.chown(shared, NOBODY, NOBODY)
    message = refused(shared)
    assert f"belongs to uid {NOBODY}" in message
    assert "run as uid 0" in message
    assert not list(shared.iterdir())


def test_a_directory_of_roots_is_refused_for_other_workers(shared: Path) -> None:
    """A directory of root's is refused if the workers drop to another user, who could not write there."""
    shared.mkdir(mode=0o700)
    assert f"run as uid {NOBODY}" in refused(shared, owner=(NOBODY, NOBODY))


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_everybody_can_write_to_is_refused(shared: Path, mode: int) -> None:
    """A directory like /tmp is refused, with a sticky bit or without."""
    shared.mkdir()
    shared.chmod(mode)
    assert "can be written by everybody" in refused(shared)


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_what_is_not_a_directory_is_refused(shared: Path, make: Callable[[Path], None]) -> None:
    """The error for a file or a FIFO says that it is not a directory."""
    make(shared)
    assert "is not a directory" in refused(shared)


def test_a_directory_below_a_file_is_refused(shared: Path) -> None:
    """The error for a path that cannot be made says why."""
    shared.touch()
    assert "Not a directory" in refused(shared / "below")


def test_a_dangling_link_is_refused(shared: Path) -> None:
    """A dangling link is neither used nor replaced."""
    shared.symlink_to("nowhere")
    refused(shared)
    assert shared.is_symlink()


def test_a_user_without_the_right_is_refused(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """A directory below one that the user cannot write to is refused with "Permission denied"."""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)

    def run() -> str:
        os.setuid(NOBODY)
        return refused(tmp_path / "shared")

    assert "Permission denied" in in_child(run)


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("untouched")
    path.symlink_to(target)


def make_hard_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("untouched")
    path.hardlink_to(target)


@pytest.mark.parametrize("make", [make_link, make_hard_link, os.mkfifo, os.mkdir])
def test_a_lock_file_that_is_no_plain_file_is_refused(shared: Path, make: Callable[[Path], None]) -> None:
    """A link, a FIFO or the like in the place of the lock file is refused and not written to."""
    shared.mkdir(mode=0o700)
    make(shared / locks.NAME)
    with pytest.raises(DirectoryError) as caught:
        directory.prepare(shared)
    assert str(shared) in str(caught.value)
    if (shared / "target").exists():
        assert "untouched" == (shared / "target").read_text()


def test_the_environment_names_the_directory_at_each_call(shared: Path) -> None:
    """The variable is read at each call, whether it is set, unset or empty."""
    assert environment.configured() is None
    os.environ[environment.VARIABLE] = str(shared)
    assert shared == environment.configured()
    os.environ[environment.VARIABLE] = ""
    assert environment.configured() is None


def test_names_of_temporary_directories_differ() -> None:
    """Each name for a temporary directory is new, and lies below a directory that exists."""
    names = {directory.name_temporary() for _ in range(10)}
    assert 10 == len(names)
    assert all(path.parent.is_dir() and not path.exists() for path in names)


def test_a_temporary_directory_is_never_one_that_exists(shared: Path) -> None:
    """A temporary directory that somebody else made first under the same name is refused."""
    shared.mkdir(mode=0o700)
    refused(shared, new=True)


def test_clear_removes_our_files_and_the_librarys_alone(shared: Path) -> None:
    """`clear` removes our files and the client library's of an earlier run, and no others."""
    lock_file = fill(shared)
    (shared / "counter_77.db").mkdir()
    os.mkfifo(shared / "counter_78.db")
    directory.clear(shared, lock_file)
    expected = sorted([*NOT_OURS, locks.NAME, "counter_77.db", "counter_78.db"])
    assert expected == sorted(os.listdir(shared))


def test_clear_follows_no_link(shared: Path, tmp_path: Path) -> None:
    """`clear` removes neither the target of a link nor files in directories below."""
    lock_file = directory.prepare(shared)
    victim = tmp_path / "counter_1.db"
    victim.write_text("precious")
    (shared / "counter_2.db").symlink_to(victim)
    (shared / "wsgi_prom.1.values").symlink_to(victim)
    (shared / "below").mkdir()
    (shared / "below" / "counter_3.db").touch()
    directory.clear(shared, lock_file)
    assert "precious" == victim.read_text()
    assert (shared / "below" / "counter_3.db").exists()


def test_clear_leaves_what_somebody_holds(shared: Path) -> None:
    """`clear` keeps the slot of a living process and removes those of dead ones."""
    lock_file = directory.prepare(shared)
    first, number = claimed(shared)
    with first:
        second, other = claimed(shared)
        assert (0, 1) == (number, other)
        first.kill()
        with second:
            assert [("slot 1", second.pid)] == directory.holders(shared, lock_file)
            directory.clear(shared, lock_file)
            assert {"wsgi_prom.1.keys", "wsgi_prom.1.values", locks.NAME} == set(os.listdir(shared))
    directory.clear(shared, lock_file)
    assert [locks.NAME] == os.listdir(shared)


def test_clear_leaves_its_own_processs_slot(in_child: Callable[..., Any], shared: Path) -> None:
    """
    A process that holds a slot and clears keeps it.
    """

    def run() -> bool:
        slot = SharedSlot.claim(shared)
        directory.clear(shared, directory.prepare(shared))
        return (shared / f"wsgi_prom.{slot.number}.values").exists()

    assert in_child(run)


def test_holders_are_servers_exporters_and_slots(shared: Path) -> None:
    """`holders` returns roles and pids of other processes, and leaves out what the caller holds."""
    lock_file = directory.prepare(shared)

    def hold(byte: int) -> bool:
        return directory.prepare(shared).acquire(byte)

    with processes.Child(hold) as child:
        assert child.call(locks.EXPORTER)
        assert child.call(locks.SERVERS[0])
        assert not lock_file.acquire(locks.EXPORTER)
        assert lock_file.acquire(locks.SERVERS[1])
        assert [("exporter", child.pid), ("server", child.pid)] == directory.holders(shared, lock_file)
        assert child.pid == lock_file.holder(locks.EXPORTER)
        assert os.getpid() == lock_file.holder(locks.SERVERS[1])
        lock_file.release(locks.SERVERS[1])
        assert lock_file.holder(locks.SERVERS[1]) is None
    assert [] == directory.holders(shared, lock_file)


def test_a_child_holds_nothing_of_its_parents(in_child: Callable[..., Any], shared: Path) -> None:
    """A forked child sees its parent's record locks as another process's."""
    lock_file = directory.prepare(shared)
    assert lock_file.acquire(locks.FIRST_SLOT)
    parent = os.getpid()

    def look() -> tuple[bool, bool, int | None]:
        return (
            lock_file.mine(locks.FIRST_SLOT),
            lock_file.acquire(locks.FIRST_SLOT),
            lock_file.holder(locks.FIRST_SLOT),
        )

    assert (False, False, parent) == in_child(look)
    lock_file.release(locks.FIRST_SLOT)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return the path of a temporary directory for one server."""
    return tmp_path / directory.name_temporary().name


def test_discard_removes_a_directory_that_we_made(in_child: Callable[..., Any], made: Path) -> None:
    """`discard` removes the temporary directory of a server with all our files."""

    def run() -> bool:
        lock_file = directory.prepare(made)
        for name in OURS:
            (made / name).touch()
        return directory.discard(made, lock_file)

    assert in_child(run)
    assert not made.exists()


def test_discard_leaves_a_directory_of_the_users(shared: Path) -> None:
    """`discard` does not remove a directory that the user named."""
    lock_file = fill(shared)
    assert not directory.discard(shared, lock_file)
    assert set(OURS) <= set(os.listdir(shared))


def test_discard_leaves_a_directory_that_another_server_uses(
    in_child: Callable[..., Any], made: Path
) -> None:
    """`discard` leaves a directory that a second server uses, as after gunicorn's USR2."""

    def run() -> bool:
        lock_file = directory.prepare(made)
        with processes.Child(lambda: directory.prepare(made).acquire(locks.SERVERS[0])) as other:
            assert other.call()
            return directory.discard(made, lock_file)

    assert not in_child(run)
    assert made.exists()


def test_discard_keeps_what_is_not_ours(in_child: Callable[..., Any], made: Path) -> None:
    """`discard` leaves a foreign file, and the directory with it."""

    def run() -> bool:
        lock_file = directory.prepare(made)
        (made / "notes.txt").touch()
        return directory.discard(made, lock_file)

    assert not in_child(run)
    assert ["notes.txt"] == os.listdir(made)


def test_discard_goes_on_where_another_was_killed(in_child: Callable[..., Any], made: Path) -> None:
    """`discard` finishes the removal of a directory whose first remover was killed half-way."""

    def run() -> bool:
        lock_file = directory.prepare(made)
        SharedSlot.claim(made)
        lock_file.mark_discarded()
        (made / directory.slot_file(0, "keys")).unlink()
        return directory.discard(made, lock_file)

    assert in_child(run)
    assert not made.exists()


def test_the_lock_file_is_the_last_to_go(in_child: Callable[..., Any], made: Path) -> None:
    """
    A process that is killed while it removes the directory leaves the lock file, which tells who is alive, or nothing.
    """

    def run() -> list[str]:
        lock_file = directory.prepare(made)
        SharedSlot.claim(made)
        removed: list[str] = []
        sys.addaudithook(lambda event, values: removed.append(values[0]) if event == "os.remove" else None)
        listdir = os.listdir
        # The order of a directory is its file system's: here the lock file comes first.
        os.listdir = lambda folder: sorted(listdir(folder), key=lambda name: (name != locks.NAME, name))
        directory.discard(made, lock_file)
        return removed

    assert [directory.slot_file(0, "keys"), directory.slot_file(0, "values"), locks.NAME] == in_child(run)


@pytest.mark.parametrize("byte", [locks.SERVERS[0], locks.EXPORTER], ids=["server", "about to be one"])
def test_discard_leaves_what_the_next_server_has_made(
    in_child: Callable[..., Any], made: Path, byte: int
) -> None:
    """
    A late `discard` leaves the directory to a server that has started in it meanwhile, even before that has locked it.
    """

    def run() -> tuple[bool, bool]:
        with processes.Child(lambda: directory.prepare(made).acquire(byte)) as other:
            lock_file = directory.prepare(made)
            gone = directory.discard(made, lock_file)
            assert other.call()
            return gone, directory.discard(made, lock_file)

    assert (True, False) == in_child(run)
    assert made.exists()


@pytest.mark.parametrize("used", [True, False])
def test_discard_asks_who_uses_a_directory_that_was_made_again(
    in_child: Callable[..., Any], made: Path, *, used: bool
) -> None:
    """`discard` looks at the lock file of a directory that was removed and made again, and leaves one in use."""
    byte = locks.SERVERS[0] if used else locks.FIRST_SLOT

    def run() -> bool:
        with processes.Child(lambda: directory.prepare(made).acquire(byte)) as other:
            lock_file = directory.prepare(made)
            shutil.rmtree(made)
            assert other.call()
            return directory.discard(made, lock_file)

    assert used is not in_child(run)
    assert used is made.exists()


def abandoned(base: Path, name: str) -> Path:
    """Make a temporary directory as a server leaves it that was killed together with its exporter, long ago."""
    path = base / name

    def make() -> None:
        directory.prepare(path)
        SharedSlot.claim(path)

    processes.in_child(make)
    os.utime(path, (0, 0))
    return path


def half_made(base: Path, name: str) -> Path:
    """Make a temporary directory as a server leaves it that was killed in the middle of that, or at its end."""
    path = base / name
    path.mkdir(mode=0o700)
    os.utime(path, (0, 0))
    return path


def half_removed(base: Path, name: str) -> Path:
    path = abandoned(base, name)
    processes.in_child(lambda: directory.prepare(path).mark_discarded())
    return path


def test_sweep_removes_abandoned_directories_of_this_user(
    in_child: Callable[..., Any], tmp_path: Path
) -> None:
    """
    `sweep` removes old temporary directories of this user and the workers' that nobody holds and that have no foreign
    file.
    """
    name = "wsgi_prom-0-{:016x}".format
    gone = {
        "left": abandoned(tmp_path, name(1)),
        "of the workers": abandoned(tmp_path, name(2)),
        "half made": half_made(tmp_path, name(3)),
        "half removed": half_removed(tmp_path, name(4)),
    }
    for number in (11, 12):
        beside = tmp_path / f"{name(number)}.stats"
        beside.mkdir()
        folder = os.open(beside, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(f"/proc/self/fd/{folder}/stats")  # a path may have 107 bytes
        os.close(folder)
        os.utime(beside, (0, 0))
        gone[f"socket {number}"] = beside
    for path in (gone["of the workers"], *gone["of the workers"].iterdir()):
        os.chown(path, NOBODY + 1, NOBODY + 1)
    kept = {
        "another name": abandoned(tmp_path, "wsgi_prom-0-x"),
        "another owner": abandoned(tmp_path, name(5)),
        "young": abandoned(tmp_path, name(6)),
        "held": abandoned(tmp_path, name(7)),
        "a link": tmp_path / name(8),
        "not empty": abandoned(tmp_path, name(9)),
        "not ours": half_made(tmp_path, name(10)),
        "a young socket's": tmp_path / f"{name(13)}.stats",
        "another owner's socket's": tmp_path / f"{name(14)}.stats",
        "a living server's socket's": tmp_path / f"{name(6)}.stats",
        "a socket's, not empty": tmp_path / f"{name(15)}.stats",
        "a socket's, of another name": tmp_path / "wsgi_prom-0-x.stats",
    }
    for label in [label for label in kept if "socket's" in label]:
        kept[label].mkdir()
    (kept["a socket's, not empty"] / "notes.txt").touch()
    os.chown(kept["another owner's socket's"], NOBODY, NOBODY)
    for label in [label for label in kept if "socket's" in label and "young" not in label]:
        os.utime(kept[label], (0, 0))
    os.chown(kept["another owner"], NOBODY, NOBODY)
    os.utime(kept["young"])
    kept["a link"].symlink_to(kept["another name"])
    for label in ("not empty", "not ours"):
        (kept[label] / "notes.txt").touch()
        os.utime(kept[label], (0, 0))
    holder, _ = claimed(kept["held"])
    with holder:
        os.utime(kept["held"], (0, 0))
        in_child(directory.sweep, tmp_path / "own", (NOBODY + 1, NOBODY + 1))
    assert {} == {label: path for label, path in gone.items() if path.exists()}
    assert {} == {label: path for label, path in kept.items() if not path.exists()}
    assert (kept["not empty"] / "notes.txt").exists()


def test_slot_numbers_and_client_files_are_told_apart(shared: Path) -> None:
    """Slots and the client library's files are listed, those that were set aside are not."""
    fill(shared)
    assert [0, 12] == directory.slot_numbers(shared)
    assert sorted(name for name in OURS if name.endswith(".db")) == directory.client_files(shared)
