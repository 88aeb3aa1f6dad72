"""
The demo's run: a server under load, a worker killed, others recycled, and scrapes all the while; then the verdict.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wsgi_prom.demo import report
from wsgi_prom.demo.load import CLIENTS, Load, Tally
from wsgi_prom.demo.scrape import NaiveScraper, Repeated, Scraper
from wsgi_prom.demo.server import WORKERS, DemoError, Server
from wsgi_prom.demo.verdict import Verdict, compare, judge
from wsgi_prom.demo.victim import kill_one

if TYPE_CHECKING:
    from collections.abc import Callable

_SCRAPE_SECONDS: Final = 0.2
_NAIVE_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.05

# A client may have its whole answer an instant before the worker counts it.
_SETTLE_SECONDS: Final = 5.0

# Shown beside the totals, which do not change any more: of whichever worker took each.
_NAIVE_SHOWN: Final = 4


def play(kind: str, requests: int, *, keep: Callable[[Server, Console], None] | None) -> bool:
    """
    Run the demo under the server *kind*, and return whether all is as it should be.

    *keep* is called while all still runs. Tables go to stdout, the rest to stderr. Raises DemoError.
    """
    out = Console(highlight=False)
    messages = Console(stderr=True, highlight=False)
    # Four workers and one in the place of the killed one: at least one of them gets a fifth of the requests.
    max_requests = requests // 5
    with tempfile.TemporaryDirectory(prefix="wsgi-prom-demo-") as folder:
        messages.print(f"Starting {kind}: {WORKERS} workers, each for {max_requests} requests")
        with Server(kind, max_requests=max_requests, folder=Path(folder)) as server:
            messages.print(f"Application: http://{server.address}/", soft_wrap=True)
            messages.print(f"Metrics:     {server.metrics_url}", soft_wrap=True)
            try:
                verdict = _run(server, requests, out, messages)
            except DemoError as error:
                raise DemoError(f"{error}{server.log_tail()}") from error
            if verdict.problems:
                messages.print(server.log_tail(), markup=False, soft_wrap=True)
            if keep is not None:
                keep(server, out)
    return not verdict.problems


def _run(server: Server, requests: int, out: Console, messages: Console) -> Verdict:
    tally = Tally()
    scraper = Scraper(server)
    naive = NaiveScraper(server.address, tally)
    scraper.scrape()
    with Repeated(scraper.scrape, _SCRAPE_SECONDS), Repeated(naive.scrape, _NAIVE_SECONDS):
        killed = _drive(server, requests, tally, messages)
        server.await_workers()
    during = len(naive.pages)
    # At once: one after the other, nearly all are taken by the same idle worker.
    with ThreadPoolExecutor(_NAIVE_SHOWN, "naive") as pool:
        for _ in range(_NAIVE_SHOWN):
            pool.submit(naive.scrape)
    _settle(scraper, tally)
    verdict = judge(tally, scraper.last, scraper.moments, killed, scraper.problems)
    report.print_comparison(out, verdict.lines, naive.pages[during:])
    report.print_latencies(out, scraper.last)
    report.print_departures(out, verdict.departures, scraper.moments)
    report.print_scrapes(out, scraper.pages, scraper.problems, naive.pages)
    report.print_conclusion(out, verdict)
    return verdict


def _drive(server: Server, requests: int, tally: Tally, messages: Console) -> int:
    """Send the requests, kill a worker after a third of them, and return its pid."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    killed = 0
    with Progress(*columns, console=messages) as progress, Load(server.address, requests, tally) as load:
        task = progress.add_task(f"{CLIENTS} clients", total=requests)
        while load.running:
            progress.update(task, completed=min(tally.done, requests))
            if not killed and load.taken >= requests // 3:
                progress.update(task, description="killing a worker")
                killed = kill_one(server, tally)
                progress.update(task, description=f"{CLIENTS} clients, {killed} killed")
            time.sleep(_POLL_SECONDS)
        progress.update(task, completed=requests)
    if not killed:
        raise DemoError(f"{requests} requests were over before a worker could be killed")
    return killed


def _settle(scraper: Scraper, tally: Tally) -> None:
    """Scrape until all that was answered is counted, for a limited time: the verdict tells whether it was."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        scraper.scrape()
        settled = scraper.last.in_progress() == 0 and all(line.right for line in compare(tally, scraper.last))
        if settled or time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)
