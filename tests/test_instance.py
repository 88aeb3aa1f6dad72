"""The steps of a server's hook at its start, between which other servers may do something."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import processes
import pytest

from wsgi_prom.store import directory, directory_names, locks
from wsgi_prom.store.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Later:
    """A clock that was set forward by more than a minute."""

    @staticmethod
    def time() -> float:
        return time.time() + 61


def sweep_later(base: Path) -> None:
    """Start another server, by whose clock all that is there is old."""
    directory.time = Later  # type: ignore[assignment]
    directory.sweep(base / "own")


@pytest.mark.parametrize("when", ["never", "before it is locked", "when it is locked"])
def test_a_clock_that_is_set_forward_during_a_start(
    in_child: Callable[..., Any], tmp_path: Path, when: str
) -> None:
    """A clock that is set forward makes neither this server nor another one sweep the new directory."""

    def run() -> tuple[bool, bool, list[int]]:
        from wsgi_prom.hooks.instance import Instance

        os.environ["WSGI_PROM_BIND"] = "off"
        directory_names._SHARED_MEMORY = tmp_path  # type: ignore[misc]
        directory.time = Later  # type: ignore[assignment]
        clear, discarded = directory.clear, []

        def meanwhile(path: Path, lock_file: LockFile) -> None:
            clear(path, lock_file)
            if when == "before it is locked" and not discarded:
                processes.in_child(sweep_later, tmp_path)
                discarded.append(not path.exists())

        directory.clear = meanwhile
        instance = Instance()
        instance.start()
        if when == "when it is locked":
            processes.in_child(sweep_later, tmp_path)
        held = processes.in_child(lambda: list(LockFile.of(instance.path).servers()))
        return instance.path.exists(), True in discarded, held

    there, swept, held = in_child(run)
    assert (True, when == "before it is locked") == (there, swept)
    assert 1 == len(held)


def test_what_servers_have_left_is_still_swept(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """An old directory without a living process is removed at the next start."""

    def run() -> tuple[str, list[str]]:
        from wsgi_prom.hooks.instance import Instance

        os.environ["WSGI_PROM_BIND"] = "off"
        directory_names._SHARED_MEMORY = tmp_path  # type: ignore[misc]
        left = directory.name_temporary()
        directory.prepare(left).close()
        os.utime(left, (0, 0))
        instance = Instance()
        instance.start()
        return instance.path.name, os.listdir(tmp_path)

    own, found = in_child(run)
    assert [own] == found


def test_a_directory_that_is_removed_while_it_is_made_is_made_again(
    in_child: Callable[..., Any], tmp_path: Path
) -> None:
    """If another server sweeps a directory that has no lock file yet, its server makes it again."""
    path = tmp_path / directory.name_temporary().name

    def run() -> int:
        from wsgi_prom.store import directory_files

        writable, times = directory_files.writable, []

        def meanwhile(folder: int) -> bool:
            times.append(1)
            if len(times) == 1:
                path.rmdir()
            return writable(folder) or True

        directory_files.writable = meanwhile
        directory.prepare(path, new=True)
        return len(times)

    assert 2 == in_child(run)
    assert [locks.NAME] == os.listdir(path)
