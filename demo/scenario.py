"""The demo's run: a server under load and scraped, a worker killed, others recycled, and the verdict at the end."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import track

from demo import report
from demo.load import ANNOUNCE_HEADER, CLIENTS, SLOW, Result, load, send
from demo.prometheus import prometheus
from demo.scrape import Scraper, repeated
from demo.verdict import Verdict, compare, judge
from runner.environment import ROOT
from runner.program import ProgramError
from runner.server import Server
from runner.waits import latest

if TYPE_CHECKING:
    from collections.abc import Iterable

SERVERS: Final = ("uwsgi", "gunicorn")
WORKERS: Final = 4

_APPLICATION: Final = "demo.application:shop()"

# A client may have its whole answer an instant before the worker counts it.
_SETTLE_SECONDS: Final = 5.0

# The scrapes of the naive endpoint at the end, when the totals do not change any more.
_NAIVE_SHOWN: Final = 4

# The killed worker's request, and how long it has been under way then: a scrape shows it in progress.
_KILLED_REQUEST_SECONDS: Final = 4
_UNDER_WAY_SECONDS: Final = 0.5


class Shop(Server):
    """The application of examples/flask under a real server."""

    module_folders = (ROOT / "examples" / "flask",)


def start(kind: str, max_requests: int) -> Shop:
    """Return the server *kind*, whose workers are replaced after *max_requests*."""
    options = ["--max-requests", str(max_requests)]
    if kind == "gunicorn":
        return Shop.gunicorn(_APPLICATION, *options, workers=WORKERS)
    # By default uWSGI does not recycle a worker that is younger than 10 s.
    options += ["--min-worker-lifetime", "0", "--strict", "--single-interpreter", "--disable-logging"]
    return Shop.uwsgi(_APPLICATION, *options, workers=WORKERS)


def play(kind: str, requests: int, *, keep: bool) -> bool:
    """
    Run the demo under the server *kind*, and return whether the verdict is good.

    Tables go to stdout, messages to stderr. With *keep* the server runs on until Ctrl-C.
    """
    out = Console(highlight=False)
    messages = Console(stderr=True, highlight=False)
    # Four workers and the killed one's successor share the requests: at least one of the five gets a fifth of them.
    max_requests = requests // 5
    messages.print(f"Starting {kind}: {WORKERS} workers, each for {max_requests} requests")
    with start(kind, max_requests) as server:
        _print_urls(server, messages)
        verdict = _run(server, requests, out, messages)
        if verdict.problems:
            messages.print(server.log_end(), markup=False, soft_wrap=True)
        if keep:
            _hold(server, out)
    return not verdict.problems


def _run(server: Server, requests: int, out: Console, messages: Console) -> Verdict:
    scraper = Scraper(server)
    scraper.scrape()
    with repeated(scraper.scrape), repeated(scraper.scrape_naive):
        killed, results = _drive(server, requests, messages)
        latest(server.workers, lambda pids: len(pids) == WORKERS)
    during = len(scraper.naive)
    # At once: one after the other, the same idle worker would take nearly all of them.
    with ThreadPoolExecutor(_NAIVE_SHOWN) as pool:
        for _ in range(_NAIVE_SHOWN):
            pool.submit(scraper.scrape_naive)
    results += scraper.results
    latest(lambda: _settled(scraper, results), bool, _SETTLE_SECONDS)
    verdict = judge(results, scraper.last, scraper.moments, killed, scraper.went_back)
    report.print_comparison(out, verdict.lines, scraper.naive[during:])
    report.print_latencies(out, scraper.last)
    report.print_departures(out, verdict.departures, scraper.moments)
    report.print_scrapes(out, scraper)
    report.print_verdict(out, verdict)
    return verdict


def _drive(server: Server, requests: int, messages: Console) -> tuple[int, list[Result]]:
    """Send the requests and kill a worker after a third of them. Returns its pid, and all results."""
    killed = 0
    found: list[Result] = []
    with load(server.url, requests) as results:
        for number, result in enumerate(track(results, f"{CLIENTS} clients", requests, console=messages)):
            found.append(result)
            if number == requests // 3:
                killed, cut_off = _kill_worker(server)
                found.append(cut_off)
                messages.print(f"Killed worker {killed}")
            errors = [each.error for each in found if each.error] if result.error else []
            if len(errors) > CLIENTS:
                raise ProgramError(f"the server does not answer: {errors[-1]}. {server.log_end()}")
    return killed, found


def _kill_worker(server: Server) -> tuple[int, Result]:
    """Send a slow request and kill -9 the worker that serves it. Returns its pid, and the request's result."""
    with ThreadPoolExecutor(1) as pool:
        query = f"?seconds={_KILLED_REQUEST_SECONDS}"
        request = pool.submit(send, server.url, SLOW, query=query, headers={ANNOUNCE_HEADER: "yes"})
        pid = int(server.wait_for_log(r"demo: worker (\d+) serves")[1])
        time.sleep(_UNDER_WAY_SECONDS)
        server.signal_child(pid, signal.SIGKILL)
    return pid, request.result()


def _settled(scraper: Scraper, results: Iterable[Result]) -> bool:
    """Scrape once more, and return whether all that was answered is counted and nothing is in progress."""
    scraper.scrape()
    return scraper.last.in_progress() == 0 and all(line.right for line in compare(results, scraper.last))


def _hold(server: Server, console: Console) -> None:
    with prometheus(server.metrics_url) as prometheus_url:
        _print_urls(server, console)
        query = "/graph?g0.expr=sum(rate(http_requests_total[1m]))by(route)&g0.tab=0&g0.range_input=5m"
        where = f"{prometheus_url}{query}" if prometheus_url else "is not installed (Debian: prometheus)"
        console.print(f"Prometheus:  {where}", soft_wrap=True)
        console.print(f"All of it runs until Ctrl-C, or: kill {os.getpid()}")
        try:
            status = server.process.wait()
        except KeyboardInterrupt:
            return
    raise ProgramError(f"the server ended by itself with {status}. {server.log_end()}")


def _print_urls(server: Server, console: Console) -> None:
    page = server.metrics_url.removesuffix("metrics")
    console.print(f"Application: {server.url}/", soft_wrap=True)
    console.print(f"Metrics:     {server.metrics_url}", soft_wrap=True)
    console.print(f"Live page:   {page}", soft_wrap=True)
    console.print(f"In here:     wsgi-prom top --url {page}", soft_wrap=True)
