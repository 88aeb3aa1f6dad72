"""Collect the rows of all chaos cases for the table at the end of a run, and set the time that a case may take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos import referee
from chaos.scale import FULL, scale

if TYPE_CHECKING:
    from collections.abc import Generator

ROOM = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give a full case all the time that it takes; the limit is for one that hangs."""
    for item in items:
        if scale is FULL and ROOM in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600 + 2 * scale.seconds))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the rows of a case with its report, since it may run in another process than the one that prints."""
    report = yield
    if call.when == "teardown":
        report.user_properties += [("chaos", row._asdict()) for row in referee.table]
        referee.table.clear()
    return report
