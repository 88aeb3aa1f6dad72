"""The tables at the end of the demo, for a terminal of 80 columns."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table

from demo.quantile import histogram_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from demo.scrape import Moment, Page, Scraper
    from demo.verdict import Departure, Line, Verdict

_QUANTILES: Final = (0.5, 0.9, 0.99)


def print_comparison(console: Console, lines: Sequence[Line], naive: Sequence[Page]) -> None:
    """Print what was sent, what was counted, and the counts on each page in *naive*, of one worker each."""
    pages = [page.by_row() for page in naive]
    table = _table(
        "Requests sent, counted by wsgi_prom, and shown by a naive endpoint",
        "request",
        *("sent", "cut\noff", "counted"),
        *(f"naive\n{number}" for number in range(1, len(pages) + 1)),
    )
    for line in lines:
        counted = f"[green]{line.counted:.0f}" if line.right else f"[red]WRONG {line.counted:.0f}"
        shown = (f"[dim]{page[line.row]:.0f}" if line.row in page else "-" for page in pages)
        table.add_row(" ".join(line.row), str(line.sent), str(line.cut_off or ""), counted, *shown)
    table.add_section()
    sent, cut_off = sum(line.sent for line in lines), sum(line.cut_off for line in lines)
    counted = f"{sum(line.counted for line in lines):.0f}"
    table.add_row(
        "all", str(sent), str(cut_off or ""), counted, *(f"[dim]{page.total():.0f}" for page in naive)
    )
    console.print("", table, sep="\n")
    console.print("naive: a scrape of one worker's own counter; chance decides which worker's.", style="dim")


def print_latencies(console: Console, page: Page) -> None:
    """Print the quantiles of each route's durations, as a dashboard would show them."""
    titles = (f"p{quantile * 100:.0f}" for quantile in _QUANTILES)
    table = _table("Latency in ms, by histogram_quantile", "route", "requests", *titles)
    for (route, method), buckets in sorted(page.durations().items()):
        figures = (f"{histogram_quantile(quantile, buckets) * 1000:.1f}" for quantile in _QUANTILES)
        table.add_row(f"{method} {route}", f"{max(buckets.values()):.0f}", *figures)
    console.print("", table, sep="\n")
    console.print("As exact as the buckets: a /slow of 251 ms lies in the one from 250 to 500.", style="dim")


def print_departures(console: Console, ended: Sequence[Departure], moments: Sequence[Moment]) -> None:
    """Print which workers ended, and that their counts stayed."""
    table = _table("Workers that ended, and the count of requests around it", "worker", "before", "after")
    for departure in ended:
        how = (
            "killed, kill -9 in the middle of /slow"
            if departure.killed
            else "recycled, after its last request"
        )
        table.add_row(f"{departure.pid} {how}", f"{departure.before:.0f}", f"{departure.after:.0f}")
    console.print("", table, sep="\n")
    console.print(
        f"http_requests_in_progress: at most {max(moment.in_progress for moment in moments):.0f}, "
        f"{moments[-1].in_progress:.0f} at the end. "
        f"Workers then: {', '.join(map(str, sorted(moments[-1].workers)))}.",
        soft_wrap=True,
    )


def print_scrapes(console: Console, scraper: Scraper) -> None:
    """Print how many scrapes there were, and how often a count went back."""
    pages, back = len(scraper.moments), len(scraper.went_back)
    falls = sum(after.total() < before.total() for before, after in pairwise(scraper.naive))
    console.print(f"Scrapes of wsgi_prom: {pages}, in which {back} series of a counter went back.")
    console.print(
        f"Scrapes of the naive endpoint: {len(scraper.naive)}, and {falls} times its count went back."
    )


def print_verdict(console: Console, verdict: Verdict) -> None:
    if verdict.problems:
        console.print("\nNot as it should be:", style="bold red")
        for problem in verdict.problems:
            console.print(f"- {problem}", markup=False, soft_wrap=True)
        return
    answered, cut_off = (sum(column) for column in zip(*(line[1:3] for line in verdict.lines), strict=True))
    console.print(
        f"\nSent equals counted: {answered} answers, all of them, and {cut_off} request cut off, which may count or not.",
        style="bold green",
        soft_wrap=True,
    )


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
