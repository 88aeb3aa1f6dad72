"""The garbage collections of workers on a server's page."""

from __future__ import annotations

import json
import os
import signal
import time

import live
import pytest
import servers

COLLECTIONS = "python_gc_collections_total"
COLLECTED = "python_gc_objects_collected_total"


def oldest(samples: live.Samples, name: str) -> float:
    """Return what the one worker has of *name* for the oldest generation."""
    return servers.value(samples, name, worker="0", generation="2") or 0.0


def settled(server: live.LiveServer, number: float) -> live.Samples:
    """Send requests, at one of which the worker looks, until the page has *number* of collections of the oldest generation."""

    def scrape() -> live.Samples:
        server.get("/")
        return server.samples()

    return live.eventually(scrape, lambda found: oldest(found, COLLECTIONS) == number)


# Of these, the one imports the application in the worker, the other in the master.
@pytest.mark.parametrize("name", servers.BOTH)
def test_a_worker_shows_what_python_counts_and_goes_on_where_its_predecessor_ended(name: str) -> None:
    """Collections and collected objects by generation rise as gc.get_stats has them; the next worker of the slot adds its own."""
    with servers.start(name, app="collecting:app", workers=1) as server:

        def stats() -> dict[str, int]:
            return json.loads(server.get("/").body)["stats"][2]

        server.get("/")
        first = live.eventually(
            server.samples,
            lambda found: (
                servers.value(found, COLLECTIONS, worker="0", generation="0") is not None
                or server.get("/") is None
            ),
        )
        before = settled(server, oldest(first, COLLECTIONS))
        known = stats()
        for _ in range(7):
            server.get("/collect")
        after = settled(server, oldest(before, COLLECTIONS) + 7)
        now = stats()
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        live.eventually(server.workers, lambda pids: len(pids) == 1 and pids != [worker])
        server.get("/collect")
        last = live.eventually(
            lambda: server.get("/") and server.samples(),
            lambda found: oldest(found, COLLECTIONS) > oldest(after, COLLECTIONS),
        )
    assert now["collections"] - known["collections"] == 7
    assert now["collected"] - known["collected"] == oldest(after, COLLECTED) - oldest(before, COLLECTED) >= 70
    labels = {
        (dict(found)["worker"], dict(found)["generation"]) for found in live.labelled(last, COLLECTIONS)
    }
    assert {("0", "0"), ("0", "1"), ("0", "2")} == labels
    gone_back = servers.gone_back(before, after) + servers.gone_back(after, last)
    assert [] == [series for series in gone_back if series.startswith("python_")]
    assert servers.value(last, "python_gc_objects_uncollectable_total", worker="0", generation="2") == 0


@pytest.mark.parametrize(
    ("name", "stages"),
    [("gunicorn sync preload", set()), ("gunicorn sync", {"garbage"})],
    ids=["from the start", "later"],
)
def test_a_python_that_tells_nothing_of_its_collections_costs_no_request(name: str, stages: set[str]) -> None:
    """Where gc.get_stats returns no list the figures are absent; where it no longer does, that failure alone is counted."""
    with servers.start(name, app="uncollected:app", workers=1) as server:
        live.drive(server.url, ["/"] * 3)
        time.sleep(1.1)  # the next look
        live.drive(server.url, ["/"] * 3)
        samples = server.samples()
    assert {("/", "200"): 6} == servers.requests_counted(samples)
    assert {} == live.labelled(samples, COLLECTIONS)
    assert stages == {
        dict(labels)["stage"]
        for labels, count in live.labelled(samples, "wsgi_prom_errors_total").items()
        if count
    }
