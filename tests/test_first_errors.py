"""The first error of a route is an increase: what a page shows at 0 before it, and what Prometheus makes of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import live
import pytest
import queries
import servers

if TYPE_CHECKING:
    from pathlib import Path

RANGE = 8


@pytest.mark.parametrize("name", servers.BOTH)
def test_the_first_error_of_a_route_is_an_increase_of_1(name: str, tmp_path: Path) -> None:
    """A route that was visited before answers its first 500: increase() of a real Prometheus is 1, for that route alone."""
    with servers.start(name, app="failing:app", workers=2) as server:
        target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
        with queries.prometheus(tmp_path, {target: {}}) as prometheus:
            live.drive(server.url, ["/sometimes", "/never"])
            queries.settle(RANGE + 2)
            live.drive(server.url, ["/sometimes?fail"])
            at = queries.settle(3)
            found = prometheus.query(f'increase(http_requests_total{{status="500"}}[{RANGE}s]) > 0', at)
    assert ["/sometimes"] == [sample["metric"]["route"] for sample in found]
    # Prometheus extends what it saw in a range to the whole of it.
    assert pytest.approx(1, rel=0.3) == found[0]["value"]


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_page_shows_what_can_happen_to_a_route_at_0(name: str) -> None:
    """Each method and route that was seen has errors and aborted requests at 0, once, and what happened is in the same rows."""
    with servers.start(name, app="failing:app", workers=2) as server:
        live.drive(server.url, ["/never"] * 8 + ["/sometimes"] * 4 + ["/sometimes?fail"] * 3)
        found = {
            (dict(labels)["route"], dict(labels).get("status")): value
            for (name, labels), value in server.samples().items()
            if name in {"http_requests_total", "http_requests_aborted_total"}
        }
    assert {
        ("/never", "200"): 8, ("/never", "500"): 0, ("/never", None): 0,
        ("/sometimes", "200"): 4, ("/sometimes", "500"): 3, ("/sometimes", None): 0,
    } == found  # fmt: skip
