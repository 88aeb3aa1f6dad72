"""The file of targets: one process keeps it, readers never see half of it, and nobody loses another's."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from processes import Child, ChildError

from wsgi_prom.discovery.target_file import TargetFile, TargetFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def group(*targets: str) -> list[dict[str, Any]]:
    return [{"targets": [target], "labels": {}} for target in targets]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "targets.json"


def test_everybody_can_read_it(path: Path) -> None:
    """Its mode is 0644 whatever the umask, and nothing else is left in the directory."""
    before = os.umask(0o077)
    try:
        TargetFile(str(path)).write(group("a:1"))
    finally:
        os.umask(before)
    assert (0o644, [path.name]) == (stat.S_IMODE(path.stat().st_mode), os.listdir(path.parent))


def test_readers_never_see_half_of_it(path: Path) -> None:
    """While the file changes, each reader finds one version of it, whole."""
    file, versions = TargetFile(str(path)), [group("a:1"), group(*(f"b:{n}" for n in range(500)))]
    file.write(versions[0])
    ended, found = threading.Event(), []

    def follow() -> None:
        while not ended.is_set():
            found.append(read(path))

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(50):
        file.write(versions[number % 2])
    ended.set()
    reader.join()
    assert found
    assert all(content in versions for content in found)


def test_what_does_not_change_is_not_written(path: Path) -> None:
    """The same targets again leave the file as it is, so that Prometheus reads nothing; a file that is gone is made again."""
    file = TargetFile(str(path))
    inodes = []
    for _ in range(2):
        file.write(group("a:1"))
        inodes.append(path.stat().st_ino)
    path.unlink()
    file.write(group("a:1"))
    assert (inodes[0], group("a:1")) == (inodes[1], read(path))


def test_a_living_process_keeps_its_file(path: Path) -> None:
    """A second process is refused while the first one lives, and has the file when that one was killed."""
    second = TargetFile(str(path))

    def keep(number: int) -> int:
        keep.file = TargetFile(str(path))  # type: ignore[attr-defined]
        keep.file.write(group(f"first:{number}"))  # type: ignore[attr-defined]
        return number

    with Child(keep) as first:
        first.call(1)
        with pytest.raises(
            TargetFileError, match=r"is kept by another process\. Give each server a file of its own"
        ):
            second.write(group("second:1"))
        kept = read(path)
        left = os.listdir(path.parent)
    second.write(group("second:1"))
    assert (group("first:1"), group("second:1"), [path.name]) == (kept, read(path), left)


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_a_reader_keeps_nobody_from_it(kind: str, path: Path) -> None:
    """Who can only read the file can lock it, and keeps its server, or the next one, from nothing by that."""

    def lock(_: int) -> None:
        lock.file = path.open()  # type: ignore[attr-defined]
        if kind == "flock":
            fcntl.flock(lock.file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined]
        else:
            fcntl.lockf(lock.file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # type: ignore[attr-defined]

    def keep(number: int) -> None:
        keep.file = TargetFile(str(path))  # type: ignore[attr-defined]
        keep.file.write(group(f"first:{number}"))  # type: ignore[attr-defined]

    with Child(keep) as first:
        first.call(1)
    found = []
    second = TargetFile(str(path))
    with Child(lock) as reader:
        reader.call(1)
        for number in range(2):
            second.write(group(f"second:{number}"))
            found.append(read(path))
    with Child(keep) as third, pytest.raises(ChildError, match="is kept by another process"):
        third.call(3)
    second.release()
    with Child(lock) as reader:
        reader.call(1)
        second.remove()
    assert ([group("second:0"), group("second:1")], False) == (found, path.exists())


def test_many_processes_at_once(path: Path, in_child: Callable[..., Any]) -> None:
    """Of processes that take an abandoned file at the same time, one has it, and its targets are in it."""

    def attempt(number: int) -> bool:
        attempt.file = TargetFile(str(path))  # type: ignore[attr-defined]
        try:
            attempt.file.write(group(f"p:{number}"))  # type: ignore[attr-defined]
        except TargetFileError:
            return False
        return True

    in_child(lambda: TargetFile(str(path)).write(group("ended:1")))
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(attempt)) for _ in range(6)]
        for number, child in enumerate(children):
            child.send(number)
        (winner,) = [number for number, child in enumerate(children) if child.receive()]
        assert group(f"p:{winner}") == read(path)


def test_a_file_is_removed_by_who_has_written_it(path: Path) -> None:
    """Neither a file that another process has taken since, nor one that somebody has put there, is removed."""
    first, second = TargetFile(str(path)), TargetFile(str(path))
    first.write(group("first:1"))
    first.release()
    second.write(group("second:1"))
    first.remove()
    assert group("second:1") == read(path)
    path.unlink()
    path.write_text("[]")
    second.remove()
    assert [] == read(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda path: path.parent.rename(path.parent.with_name("other")),
            "cannot be written: No such file or directory",
        ),
        (lambda path: path.symlink_to("/etc/passwd"), "cannot be written: Too many levels of symbolic links"),
        (
            lambda path: path.with_name(f".{path.name}.new").symlink_to("/etc/passwd"),
            "cannot be written: Too many levels",
        ),
        (lambda path: path.mkdir(), "cannot be written: Is a directory"),
    ],
)
def test_what_cannot_be_written_is_told(path: Path, damage: Callable[[Path], object], told: str) -> None:
    """A missing directory, a link and a folder in the place of the file are errors that say so; no link is followed."""
    damage(path)
    with pytest.raises(TargetFileError, match=told):
        TargetFile(str(path)).write(group("a:1"))


def test_a_file_that_can_no_longer_be_looked_at_is_told(path: Path) -> None:
    """A folder in the path that has become a file is an error that says so, though what is to be written has not changed."""
    file = TargetFile(str(path))
    file.write(group("a:1"))
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.write_text("")
    with pytest.raises(TargetFileError, match="cannot be written: Not a directory"):
        file.write(group("a:1"))


def test_another_users_file(path: Path) -> None:
    """A file of another user's is left alone."""
    path.write_text("[]")
    os.chown(path, 4321, 4321)
    with pytest.raises(
        TargetFileError, match="cannot be written: it belongs to uid 4321, this process runs as uid"
    ):
        TargetFile(str(path)).write(group("a:1"))
    assert [] == read(path)
