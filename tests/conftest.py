"""What all tests share: an environment that says nothing, and functions that run in a process of their own."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

import processes
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _pytest.terminal import TerminalReporter

# One for all processes that run tests, which inherit it.
SEED = os.environ.setdefault("CHAOS_SEED", secrets.token_hex(4))

_rows: list[dict[str, object]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _rows.extend(row for name, row in report.user_properties if name == "chaos" and report.when == "teardown")


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the table of chaos, one row for each case."""
    if not _rows:
        return
    terminalreporter.section("chaos")
    cells = [
        [name.replace("_", " ") for name in _rows[0]],
        *([str(item) for item in row.values()] for row in _rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        numbers = [item.rjust(width) for item, width in zip(others, widths[1:], strict=True)]
        terminalreporter.write_line("  ".join([first.ljust(widths[0]), *numbers]))
    terminalreporter.write_line(f"CHAOS_SEED={SEED}")


@pytest.fixture(autouse=True)
def _silent_environment() -> Iterator[None]:
    """
    Nothing that whoever runs the tests has set reaches them, and nothing that a test sets outlives it.
    """
    before = dict(os.environ)
    for name in before:
        if name == "PROMETHEUS_MULTIPROC_DIR" or name.startswith(("WSGI_PROM_", "_WSGI_PROM_")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def in_child() -> Callable[..., object]:
    """
    `in_child(function, *arguments)`: the function's result, from a forked process; its exception fails the test.

    What records into the process's one current slot goes in here.
    """
    return processes.in_child


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """
    A directory for slots that does not exist yet.
    """
    return tmp_path / "shared"
