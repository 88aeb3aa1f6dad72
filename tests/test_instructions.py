"""Bounds on the cost of a request in instructions, which repeat themselves where nanoseconds do not."""

from __future__ import annotations

import instructions
import pytest
from harness import paired

# What is added to a request, in parts of a counter and a histogram of the client library: what docs and design promise.
BOUNDS = {
    ("ours", "stock"): 0.30,
    ("ours count+duration", "stock"): 0.25,
    ("ours label", "stock label"): 0.33,
    ("ours 204", "stock"): 0.30,
    # No promise of docs: stock measures neither the time in a proxy's queue nor the size of a body.
    ("ours proxied", "stock"): 0.63,
    ("ours body", "stock"): 0.70,
    # The promise under Flask and Django is 1/8 and 1/15 of the framework's own exporter, which is no part of the tests.
    # bench/README.md has them at 0.113 and 0.050 where ours is 0.446 and 0.469 of stock: so these stand for 0.124 and 0.058.
    ("ours flask", "stock"): 0.49,
    ("ours django", "stock"): 0.54,
}


@pytest.mark.timeout(900)
def test_a_request_costs_no_more_instructions_than_promised() -> None:
    """
    A measured request costs at most the promised part of a Counter and Histogram written by hand. The bounds hold for Flask, whose
    body is an iterator, and for Django's own responses.
    """
    figures = instructions.of_requests({name for pair in BOUNDS for name in pair})
    found = {(top, bottom): paired(figures[top], figures[bottom]) for top, bottom in BOUNDS}
    assert {} == {pair: value for pair, value in found.items() if value > BOUNDS[pair]}, found
