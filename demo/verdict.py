"""Compare what was sent with what was counted, and list everything that makes the demo fail."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from demo.load import Result, Row
    from demo.scrape import Moment, Page


class Line(NamedTuple):
    """The requests of one row."""

    row: Row
    answered: int
    cut_off: int
    counted: float

    @property
    def sent(self) -> int:
        return self.answered + self.cut_off

    @property
    def right(self) -> bool:
        """Whether all answered requests were counted. One that was cut off may be complete for the server, or not."""
        return self.answered <= self.counted <= self.sent


class Departure(NamedTuple):
    """A worker that ended, and the count of requests in the last scrape with it and the first without."""

    pid: int
    killed: bool
    before: float
    after: float


class Verdict(NamedTuple):
    """How the run ended. *problems* is empty if all is as it should be."""

    lines: list[Line]
    departures: list[Departure]
    problems: list[str]


def compare(results: Iterable[Result], page: Page) -> list[Line]:
    """Return what was sent and what *page* counts, by row."""
    answered: Counter[Row] = Counter()
    cut_off: Counter[Row] = Counter()
    for result in results:
        (cut_off if result.error else answered)[result.row] += 1
    counted = page.by_row()
    rows = sorted({*answered, *cut_off, *counted}, key=lambda row: (row.route, row.method, row.status))
    return [Line(row, answered[row], cut_off[row], counted.get(row, 0.0)) for row in rows]


def departures(moments: Sequence[Moment], killed: int) -> list[Departure]:
    """Return the workers that ended, in order."""
    return [
        Departure(pid, pid == killed, before.total, after.total)
        for before, after in pairwise(moments)
        for pid in sorted(before.workers - after.workers)
    ]


def judge(
    results: Sequence[Result], page: Page, moments: Sequence[Moment], killed: int, went_back: Sequence[str]
) -> Verdict:
    """Judge the run by its last *page*, taken when no request was under way."""
    lines = compare(results, page)
    ended = departures(moments, killed)
    problems = [
        f"{' '.join(line.row)}: {line.answered} answered and {line.cut_off} cut off, but {line.counted:.0f} counted"
        for line in lines
        if not line.right
    ]
    problems += went_back
    if page.in_progress() != 0:
        problems.append(f"{page.in_progress():.0f} requests are in progress after the last one")
    # A worker serves one request at a time, so the kill cuts off one request, and recycling none.
    errors = [result.error for result in results if result.error]
    if len(errors) > 1:
        problems.append(f"requests were cut off, of which the kill explains one: {'; '.join(errors)}")
    if not any(departure.killed for departure in ended):
        problems.append(f"worker {killed} was killed, and lives")
    if all(departure.killed for departure in ended):
        problems.append("no worker was recycled")
    return Verdict(lines, ended, problems)
