"""The table of all cases, at the end of a run, and the time that a case may take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos import referee
from chaos.scale import FULL, SEED, scale

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

ROOM = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A case in full takes as long as it takes; the limit is for one that hangs."""
    for item in items:
        if scale is FULL and ROOM in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600 + 2 * scale.seconds))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print one row for each case."""
    if not referee.table:
        return
    terminalreporter.section("chaos")
    names = referee.Figures._fields
    rows = [
        [name.replace("_", " ") for name in names],
        *([str(item) for item in row] for row in referee.table),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(item.rjust(width) for item, width in zip(row[1:], widths[1:], strict=True)),
        ]
        terminalreporter.write_line("  ".join(cells))
    terminalreporter.write_line(f"CHAOS_SEED={SEED}")
