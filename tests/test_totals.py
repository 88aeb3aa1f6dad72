"""The main claim: every server counts exactly the requests that were sent, over all workers."""

from __future__ import annotations

from typing import NamedTuple

import live
import pytest
import servers
from servers import value

REQUESTS = 1000


def paths(count: int) -> list[str]:
    """Return requests of every kind, mixed."""
    kinds = ["/", "/record?kind=a&v=3", "/stream", "/nowhere", "/record?kind=b&v=3", "/", "/fail", "/pid"]
    return [kinds[number % len(kinds)] for number in range(count)]


class Counted(NamedTuple):
    """
    The pages of a server whose application records metrics of its own: after requests of every kind, and the last one.

    In between, each worker was asked to record, in so many *rounds* of 200 requests.
    """

    server: str
    driven: live.Driven
    scraper: servers.Scraper
    samples: live.Samples
    rounds: int
    last: live.Samples


@pytest.fixture(scope="module", params=servers.ALL)
def counted(request: pytest.FixtureRequest) -> Counted:
    with servers.start(request.param, app="metered:app") as server:
        scraper = servers.Scraper(server)
        driven = scraper.during(lambda: live.drive(server.url, paths(REQUESTS), clients=8))
        samples = server.samples()
        live.drive(server.url, ["/record?kind=b&v=7"] * 40, clients=4)
        # Then the same in each worker, so that what one process shows does not depend on who got the last request.
        rounds = 0
        while rounds < 10:
            rounds += 1
            live.drive(server.url, ["/record?kind=c&v=4"] * 200, clients=8)
            last = server.samples()
            if {0.0, 4.0} >= set(live.labelled(last, "app_gauge_all").values()):
                break
        # A worker that had none of the requests may still be importing the application.
        last = live.eventually(
            server.samples, lambda found: value(found, "app_imports_total") == imports(request.param), 10
        )
    return Counted(request.param, driven, scraper, samples, rounds, last)


def test_totals_of_all_workers_are_exact_and_never_go_back(counted: Counted) -> None:
    """1,000 requests by 8 clients are counted exactly, and no counter goes back from one scrape to the next."""
    samples, each = counted.samples, REQUESTS // 8
    assert {
        ("/", "200"): 2 * each,
        ("/record", "200"): 2 * each,
        ("/stream", "200"): each,
        ("unmatched", "404"): each,
        ("/fail", "500"): each,
        ("/pid", "200"): each,
    } == servers.requests_counted(samples)
    # uWSGI closes the connection of a request whose application raised, without an answer.
    assert {"/fail"} >= {path for path, _ in counted.driven.failed}
    assert [] == counted.scraper.problems
    assert counted.scraper.scrapes > 3
    assert value(samples, "http_requests_in_progress") == 0
    assert (
        value(samples, "http_request_exceptions_total", method="GET", route="/fail", exception="ValueError")
        == each
    )
    for route in ("/", "/record", "/stream", "unmatched", "/fail", "/pid"):
        labels = {"method": "GET", "route": route}
        count = value(samples, "http_request_duration_seconds_count", **labels)
        assert count == value(samples, "http_request_duration_seconds_bucket", **labels, le="+Inf")
        assert count == sum(
            n for (found, _), n in servers.requests_counted(samples).items() if found == route
        )


def imports(name: str) -> int:
    """Return how often the four workers of a server import their application."""
    return 1 if name in servers.IMPORTED_ONCE else 4


def test_the_applications_own_metrics_are_right(counted: Counted) -> None:
    """Counter, Summary, Histogram and a Gauge of each multiprocess mode add up over the workers."""
    samples, each, more = counted.last, REQUESTS // 8, 200 * counted.rounds
    assert value(samples, "app_orders_total", kind="a") == 3 * each
    assert value(samples, "app_orders_total", kind="b") == 3 * each + 280
    assert value(samples, "app_orders_total", kind="c") == 4 * more
    assert value(samples, "app_size_count") == 2 * each + 40 + more
    assert value(samples, "app_size_sum") == 6 * each + 280 + 4 * more
    buckets = {
        le: value(samples, "app_latency_seconds_bucket", le=le) for le in ("2.0", "5.0", "10.0", "+Inf")
    }
    assert buckets == {
        "2.0": 0, "5.0": 2 * each + more, "10.0": 2 * each + 40 + more, "+Inf": 2 * each + 40 + more
    }  # fmt: skip
    assert value(samples, "app_latency_seconds_count") == 2 * each + 40 + more
    assert value(samples, "app_latency_seconds_sum") == 6 * each + 280 + 4 * more

    shown = {mode: live.labelled(samples, f"app_gauge_{mode}") for mode in ("all", "liveall")}
    assert {0.0, 4.0} >= set(shown["all"].values())
    assert shown["all"].keys() == shown["liveall"].keys()
    assert value(samples, "app_gauge_max") == 7 or 7 not in shown["all"].values()
    assert value(samples, "app_gauge_sum") == sum(shown["all"].values())
    assert value(samples, "app_gauge_livesum") == sum(shown["liveall"].values())
    assert value(samples, "app_gauge_livemax") == max(shown["liveall"].values())
    assert value(samples, "app_gauge_livemin") == min(shown["liveall"].values())
    assert value(samples, "app_gauge_mostrecent") == 4
    assert value(samples, "app_gauge_livemostrecent") == 4


def test_an_increment_at_import_is_counted_once_for_each_import(counted: Counted) -> None:
    """A counter incremented at the import in the master is counted once, not once a worker."""
    assert imports(counted.server) == value(counted.last, "app_imports_total")


@pytest.mark.parametrize("name", servers.BOTH)
def test_recycled_workers_lose_nothing_and_leave_no_files(name: str) -> None:
    """
    After 100 requests to workers that are replaced after 5 each, all are counted, in no more files or bytes than after
    40.
    """
    option = ("--max-requests", "5")
    if name.startswith("uwsgi"):
        # Else a worker lives for a minute at least.
        option += ("--min-worker-lifetime", "0")
    with servers.start(name, *option) as server:
        scraper = servers.Scraper(server)
        folder = servers.shared_directory(server)
        sizes = []
        for count in (40, 60):
            scraper.during(lambda count=count: live.drive(server.url, ["/"] * count, clients=4))
            files = servers.worker_files(folder)
            # Of the largest: not each of the first workers need have served one.
            largest = [
                max(found.st_size for name, found in files.items() if name.endswith(kind))
                for kind in (".keys", ".values")
            ]
            sizes.append((set(files), largest))
        samples = live.eventually(
            server.samples, lambda found: servers.requests_counted(found) == {("/", "200"): 100}, 10
        )
    assert {("/", "200"): 100} == servers.requests_counted(samples)
    assert (value(samples, "wsgi_worker_starts_total") or 0) >= 100 / 5
    assert sizes[0] == sizes[1]
    assert [] == scraper.problems
