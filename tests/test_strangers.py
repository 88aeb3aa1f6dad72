"""
Files, links and directories that other users put in our way: refused or ignored, never written to, given away or
followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from users import needs_root

from wsgi_prom.errors import WsgiPromError
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import directory, directory_files, directory_names, label_limit, locks, schemas
from wsgi_prom.store.label_limit import LabelSets
from wsgi_prom.store.slots import SharedSlot
from wsgi_prom.store.text_format import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
STRANGER = 54321
HITS = schemas.counter("hits", "Hits.", ())
NOTHING = Text(1.0, 1.0, b"{}")

SLOT_NAMES = ["wsgi_prom.0.keys", "wsgi_prom.0.values", "wsgi_prom.0.texts"]
NAMES = [*SLOT_NAMES, locks.NAME, label_limit.NAME]


class Foreign:
    """A file of somebody else's, and whether it is unchanged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("theirs")
        path.chmod(0o644)
        os.chown(path, STRANGER, STRANGER)
        self._before = self._state()

    def _state(self) -> tuple[object, ...]:
        found = self.path.stat()
        return found.st_uid, found.st_gid, found.st_mode, found.st_ino, self.path.read_text()

    @property
    def untouched(self) -> bool:
        return self._before == self._state()


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Foreign]:
    found = Foreign(tmp_path / "foreign")
    yield found
    assert found.untouched


def plant_link(path: Path, foreign: Foreign) -> None:
    path.symlink_to(foreign.path)


def plant_hard_link(path: Path, foreign: Foreign) -> None:
    path.hardlink_to(foreign.path)


def plant_fifo(path: Path, _: Foreign) -> None:
    os.mkfifo(path)


def plant_directory(path: Path, _: Foreign) -> None:
    path.mkdir()
    (path / "precious").write_text("kept")


def plant_socket(path: Path, _: Foreign) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def plant_device(path: Path, _: Foreign) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


PLANTED = [plant_link, plant_hard_link, plant_fifo, plant_directory, plant_socket, plant_device]
OWNERS = [None, pytest.param((NOBODY, NOBODY), marks=needs_root)]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return the path of a temporary directory of a server."""
    return tmp_path / directory.name_temporary().name


def use(path: Path, owner: tuple[int, int] | None) -> None:
    """Do all that a process does with a directory; errors other than ours fail the test."""
    try:
        slot = SharedSlot.claim(path, owner)
        columns, index = slot.row(HITS, ())
        columns[index] += 1.0
        slot.write_text(index, NOTHING)
    except (OSError, WsgiPromError):
        pass
    try:
        sets = LabelSets(path, 10, owner)
        sets.allow("hits", ("a",))
        sets.close()
    except (OSError, WsgiPromError):
        pass
    try:
        list(Collector(path).collect().to_metrics())
        lock_file = directory.prepare(path, owner=owner)
        directory.clear(path, lock_file)
        directory.discard(path, lock_file)
    except (OSError, WsgiPromError):
        pass


@pytest.mark.parametrize("owner", OWNERS, ids=["own", "dropped"])
@pytest.mark.parametrize("name", NAMES + [f"{name}.bad" for name in SLOT_NAMES] + ["counter_1.db"])
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_what_is_planted_at_a_name_of_ours_leads_nowhere(
    in_child: Callable[..., Any],
    shared: Path,
    foreign: Foreign,
    plant: Callable[[Path, Foreign], None],
    name: str,
    owner: tuple[int, int] | None,
) -> None:
    """
    A planted link or FIFO under one of our names is neither followed, written to, removed, given away nor waited for.
    """
    shared.mkdir(mode=0o700)
    if owner is not None:
        os.chown(shared, *owner)
    plant(shared / name, foreign)
    in_child(use, shared, owner)
    assert foreign.untouched
    if plant is plant_directory:
        assert ["kept"] == [path.read_text() for path in shared.rglob("precious")]


@pytest.mark.parametrize("name", SLOT_NAMES)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_slot_is_had_in_spite_of_what_is_planted(
    in_child: Callable[..., Any],
    shared: Path,
    foreign: Foreign,
    plant: Callable[[Path, Foreign], None],
    name: str,
) -> None:
    """A file in the place of a slot's file is set aside, and the process is counted."""

    def run() -> None:
        slot = SharedSlot.claim(shared)
        columns, index = slot.row(HITS, ())
        columns[index] += 1.0
        assert slot.write_text(index, NOTHING)

    directory.prepare(shared)
    plant(shared / name, foreign)
    in_child(run)
    (found,) = Collector(shared).collect().to_metrics()
    assert [1.0] == [sample.value for sample in found.samples]
    assert os.path.lexists(shared / f"{name}.bad")


def test_odd_names_are_left_alone(in_child: Callable[..., Any], shared: Path) -> None:
    """Names with newlines or invalid UTF-8 are neither read nor removed, and do not break a scrape."""
    names = [
        b"wsgi_prom.0.values\n",
        b"\nwsgi_prom.0.keys",
        b"wsgi_prom.\xff.values",
        b"counter_1\n2.db",
        b"\n",
        b"\xff",
    ]
    lock_file = directory.prepare(shared)
    for name in names:
        Path(os.fsdecode(os.fsencode(shared) + b"/" + name)).touch()
    in_child(use_quietly, shared)
    directory.clear(shared, lock_file)
    assert sorted([*names, locks.NAME.encode()]) == sorted(os.listdir(os.fsencode(shared)))


def use_quietly(path: Path) -> None:
    SharedSlot.claim(path).row(HITS, ())
    list(Collector(path).collect().to_metrics())


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(WsgiPromError) as caught:
        directory.prepare(path, **options)
    return str(caught.value)


@pytest.mark.parametrize(("owner", "uid"), [(None, 0), ((NOBODY, NOBODY), NOBODY)])
def test_a_link_that_somebody_else_planted_is_refused(
    tmp_path: Path, owner: tuple[int, int] | None, uid: int
) -> None:
    """A link of another user's is refused, even if it leads to a directory of our own."""
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    os.chown(own, uid, uid)
    link = tmp_path / "link"
    link.symlink_to(own)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    message = refusal(link, owner=owner)
    assert f"belongs to uid {STRANGER}" in message
    assert "remove the link" in message
    assert [] == list(own.iterdir())


@pytest.mark.parametrize("of", [0, NOBODY])
def test_a_link_of_roots_or_of_the_users_own_is_followed(tmp_path: Path, of: int) -> None:
    """A link of root's, such as /var/run, or of the user's own is followed."""
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    os.chown(own, NOBODY, NOBODY)
    link = tmp_path / "link"
    link.symlink_to(own)
    os.chown(link, of, of, follow_symlinks=False)
    directory.prepare(link, owner=(NOBODY, NOBODY))
    assert [locks.NAME] == os.listdir(own)


def test_what_replaces_a_directory_below_a_folder_open_to_all_is_refused(tmp_path: Path) -> None:
    """A directory of another user's that replaces ours in a volume open to all is refused."""
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    path = parent / "deep" / "shared"
    directory.prepare(path)
    path.rename(parent / "away")
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)
    assert f"belongs to uid {NOBODY}" in refusal(path)
    assert [] == os.listdir(path)


def test_a_temporary_directory_is_made_below_any(tmp_path: Path) -> None:
    """A temporary directory may lie below a directory that is open to all, since nobody knows its random name."""
    tmp_path.chmod(0o777)
    path = tmp_path / directory.name_temporary().name
    directory.prepare(path, new=True)
    directory.prepare(path)
    assert 0o700 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("owner", OWNERS, ids=["own", "dropped"])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_whatever_the_umask(
    in_child: Callable[..., Any], tmp_path: Path, umask: int, owner: tuple[int, int] | None
) -> None:
    """Whatever the umask, our directory is for its owner alone, and others may at most pass through its new parents."""
    path = tmp_path / "a" / "b" / "shared"

    def run() -> None:
        os.umask(umask)
        slot = SharedSlot.claim(path, owner)
        slot.write_text(slot.row(HITS, ())[1], NOTHING)
        LabelSets(path, 10, owner).allow("hits", ("a",))

    in_child(run)
    uid = os.geteuid() if owner is None else owner[0]
    for file in path.iterdir():
        assert (0o600, uid) == (stat.S_IMODE(file.stat().st_mode), file.stat().st_uid)
    assert {*NAMES} == set(os.listdir(path))
    assert (0o700, uid) == (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid)
    # Workers that drop to another user have to pass.
    expected = 0o755 if owner is not None else 0o755 & ~umask
    assert [expected] * 2 == [stat.S_IMODE(parent.stat().st_mode) for parent in list(path.parents)[:2]]


def test_a_name_is_chosen_where_nothing_can_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Choosing a name never raises, even if nothing can be written to; making the directory does."""
    import tempfile

    monkeypatch.setattr(directory_names, "_SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError("none")))
    path = directory.name_temporary()
    assert tmp_path / "none" == path.parent
    assert "No such file" in refusal(path, new=True)


def test_it_is_the_effective_user_who_writes(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """The effective user counts for a process that has lent its rights away and is root by its real uid."""

    folders = []
    for name, uid in (("roots", 0), ("own", NOBODY)):
        (tmp_path / name).mkdir(mode=0o700)
        os.chown(tmp_path / name, uid, uid)
        folders.append(os.open(tmp_path / name, os.O_PATH))

    def run() -> tuple[bool, ...]:
        os.seteuid(NOBODY)
        return tuple(directory_files.writable(folder) for folder in folders)

    assert (False, True) == in_child(run)
