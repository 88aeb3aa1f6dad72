"""What was sent against what was counted, and all that makes the demo fail."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsgi_prom.demo.load import Row, Tally
    from wsgi_prom.demo.scrape import Moment, Page


class Line(NamedTuple):
    """One row of the comparison."""

    row: Row
    answered: int
    cut_off: int
    counted: float

    @property
    def sent(self) -> int:
        return self.answered + self.cut_off

    @property
    def right(self) -> bool:
        """
        Whether each answered request was counted, and nothing was that was not sent.

        A request without a complete answer may have been over for the server, or not.
        """
        return self.answered <= self.counted <= self.sent


class Departure(NamedTuple):
    """A worker that went, and the total of the last scrape with it and of the first without."""

    pid: int
    killed: bool
    before: float
    after: float


@dataclass(frozen=True)
class Verdict:
    """How the run ended. *problems* is empty if all is as it should be."""

    lines: tuple[Line, ...]
    departures: tuple[Departure, ...]
    problems: tuple[str, ...]


def compare(tally: Tally, page: Page) -> tuple[Line, ...]:
    """Set what was sent and what *page* counts side by side, by row."""
    counted = page.by_row()
    rows = sorted(
        {*tally.answered, *tally.cut_off, *counted}, key=lambda row: (row.route, row.method, row.status)
    )
    return tuple(Line(row, tally.answered[row], tally.cut_off[row], counted.get(row, 0.0)) for row in rows)


def departures(moments: Sequence[Moment], killed: int) -> tuple[Departure, ...]:
    """Return the workers that went, in that order."""
    return tuple(
        Departure(pid, pid == killed, before.total, after.total)
        for before, after in pairwise(moments)
        for pid in sorted(before.workers - after.workers)
    )


def judge(
    tally: Tally, page: Page, moments: Sequence[Moment], killed: int, went_back: Sequence[str]
) -> Verdict:
    """Judge the run by its last *page*, when no request is under way any more."""
    lines = compare(tally, page)
    gone = departures(moments, killed)
    problems = [
        f"{line.row.method} {line.row.route} {line.row.status}: {line.answered} answered and {line.cut_off} cut off, "
        f"but {line.counted:.0f} counted"
        for line in lines
        if not line.right
    ]
    problems += went_back
    if page.in_progress() != 0:
        problems.append(f"{page.in_progress():.0f} requests are in progress after the last one")
    # The server's workers serve one request at a time, so that a kill ends one, and recycling none.
    if len(tally.errors) > 1:
        problems.append(f"requests were cut off, of which the kill explains one: {'; '.join(tally.errors)}")
    if not any(departure.killed for departure in gone):
        problems.append(f"worker {killed} was killed, and lives")
    if all(departure.killed for departure in gone):
        problems.append("no worker was recycled")
    return Verdict(lines, gone, tuple(problems))
