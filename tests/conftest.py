"""What all tests share: an environment that says nothing, and functions that run in a process of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import processes
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _silent_environment() -> Iterator[None]:
    """
    Nothing that whoever runs the tests has set reaches them, and nothing that a test sets outlives it.
    """
    before = dict(os.environ)
    for name in before:
        if name == "PROMETHEUS_MULTIPROC_DIR" or name.startswith("WSGI_PROM_"):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def in_child() -> Callable[..., object]:
    """
    `in_child(function, *arguments)`: the function's result, from a forked process; its exception fails the test.

    What records into the process's one lease goes in here.
    """
    return processes.in_child


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """
    A directory for slots that does not exist yet.
    """
    return tmp_path / "shared"
