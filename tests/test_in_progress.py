"""The requests that a process is serving, as a scrape sees them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.merge.collector import Collector
from wsgi_prom.store import in_progress
from wsgi_prom.store.current_slot import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("column", "number", "start"),
    [(0.0, 0, None), (-0.0, 0, None), (12.5, 1, 12.5), (0.25, 1, 0.25), (-1.0, 1, None), (-7.0, 7, None)],
)
def test_a_column_tells_the_number_and_the_start_of_a_request_alone(
    column: float, number: int, start: float | None
) -> None:
    """A start is known only for a request that is alone since it began."""
    assert (number, start) == (in_progress.number(column), in_progress.start(column))


def test_requests_within_requests_are_counted_and_only_one_alone_has_a_start(
    in_child: Callable[..., Any],
) -> None:
    """Three requests, each within the one before it, are 1, 2, 3, 2, 1 and 0; only the first, while alone, has a start."""

    def run() -> Any:
        seen: list[tuple[float, bool]] = []
        began = time.monotonic()

        def look() -> None:
            families = {family.name: family for family in Collector(None).collect().to_metrics()}
            (sample,) = families["http_requests_in_progress"].samples
            (column,) = [
                columns[1]  # behind the start time
                for schema, _, columns in current_slot.slot.rows()  # type: ignore[attr-defined]
                if schema.metrics[0].name == "http_requests_in_progress"
            ]
            start = in_progress.start(column)
            seen.append((sample.value, start is not None and began <= start <= time.monotonic()))

        def app(environ: Any, start_response: Any) -> list[bytes]:
            look()
            depth = environ["depth"]
            if depth:
                inner = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "depth": depth - 1}
                measured(inner, lambda *_: bytes)
                look()
            start_response("200 OK", [])
            return [b"x"]

        measured = PrometheusMiddleware(app)
        measured({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "depth": 2}, lambda *_: bytes)
        look()
        return seen

    assert [(1, True), (2, False), (3, False), (2, False), (1, False), (0, False)] == in_child(run)
