"""The tables at the end of the demo."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table

from wsgi_prom import metrics
from wsgi_prom.demo.quantile import histogram_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from wsgi_prom.demo.scrape import Moment, Page
    from wsgi_prom.demo.verdict import Departure, Line, Verdict

_QUANTILES: Final = (0.5, 0.9, 0.99)

_KILLED: Final = "killed, kill -9 in the middle of /slow"
_RECYCLED: Final = "recycled, after its last request"


def print_comparison(console: Console, lines: Sequence[Line], naive: Sequence[Page]) -> None:
    """Print what was sent and counted, and what each page in *naive*, of one worker each, shows."""
    table = _table("Requests sent, counted by wsgi_prom, and shown by a naive endpoint")
    table.add_column("request", no_wrap=True)
    for title in ("sent", "cut\noff", "counted"):
        table.add_column(title, justify="right", no_wrap=True)
    for number in range(1, len(naive) + 1):
        table.add_column(f"naive\n{number}", justify="right", style="dim", no_wrap=True)
    pages = [page.by_row() for page in naive]
    for line in lines:
        table.add_row(
            " ".join(line.row),
            str(line.sent),
            str(line.cut_off or ""),
            f"[green]{line.counted:.0f}" if line.right else f"[red]WRONG {line.counted:.0f}",
            *(f"{page[line.row]:.0f}" if line.row in page else "-" for page in pages),
        )
    table.add_section()
    table.add_row(
        "all",
        str(sum(line.sent for line in lines)),
        str(sum(line.cut_off for line in lines) or ""),
        f"{sum(line.counted for line in lines):.0f}",
        *(f"{page.total():.0f}" for page in naive),
    )
    _print(console, table)
    console.print("naive: a scrape of one worker's own counter; which worker's, chance decides.", style="dim")


def print_latencies(console: Console, page: Page) -> None:
    """Print the quantiles of each route's durations, as a dashboard would show them."""
    table = _table("Latency in ms, by histogram_quantile")
    table.add_column("route", no_wrap=True)
    table.add_column("requests", justify="right")
    for quantile in _QUANTILES:
        table.add_column(f"p{quantile * 100:.0f}", justify="right")
    for labels, buckets in sorted(page.durations().items(), key=lambda item: item[0][::-1]):
        figures = (histogram_quantile(quantile, buckets) * 1000 for quantile in _QUANTILES)
        count = f"{max(buckets.values()):.0f}"
        table.add_row(" ".join(labels), count, *(f"{figure:.1f}" for figure in figures))
    _print(console, table)
    console.print("As exact as the buckets: a /slow of 251 ms lies in the one from 250 to 500.", style="dim")


def print_departures(console: Console, gone: Sequence[Departure], moments: Sequence[Moment]) -> None:
    table = _table("Workers that went, and the count of requests around it")
    table.add_column("pid", justify="right")
    table.add_column("how", no_wrap=True)
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for departure in gone:
        how = _KILLED if departure.killed else _RECYCLED
        table.add_row(str(departure.pid), how, f"{departure.before:.0f}", f"{departure.after:.0f}")
    _print(console, table)
    most = max((moment.in_progress for moment in moments), default=0.0)
    console.print(
        f"{metrics.IN_PROGRESS[0]}: at most {most:.0f}, {moments[-1].in_progress:.0f} at the end. "
        f"Workers then: {', '.join(map(str, sorted(moments[-1].workers)))}.",
        soft_wrap=True,
    )


def print_scrapes(console: Console, pages: int, went_back: Sequence[str], naive: Sequence[Page]) -> None:
    falls = sum(after.total() < before.total() for before, after in pairwise(naive))
    console.print(f"Scrapes of wsgi_prom: {pages}, in which {len(went_back)} series of a counter went back.")
    console.print(f"Scrapes of the naive endpoint: {len(naive)}, and {falls} times its count went back.")


def print_conclusion(console: Console, verdict: Verdict) -> None:
    cut_off = sum(line.cut_off for line in verdict.lines)
    if verdict.problems:
        console.print("\nNot as it should be:", style="bold red")
        for problem in verdict.problems:
            console.print(f"- {problem}", markup=False, soft_wrap=True)
    else:
        console.print(
            f"\nSent equals counted: {sum(line.answered for line in verdict.lines)} answers, all of them, and "
            f"{cut_off} request cut off, which may count or not.",
            style="bold green",
            soft_wrap=True,
        )


def _table(title: str) -> Table:
    # Made for a terminal of 80 columns.
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _print(console: Console, table: Table) -> None:
    console.print()
    console.print(table)
