"""The time added to the first request of a new label set, which gets a row in the shared directory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from contender import Contender
from harness import Part, Ratio, added, interleave, paired

if TYPE_CHECKING:
    from harness import Scale


def measure(scale: Scale) -> Part:
    # A new process for each slice, since a label set is new once. A few slices are enough: each is many requests.
    few = replace(scale, slices=3)
    found = interleave({name: partial(first_requests, name) for name in ("bare", "stock", "ours")}, "ns", few)
    bare = found["bare"]
    stock, ours = (added(found[name], bare) for name in ("stock", "ours"))
    return Part(
        "What is added to the first request of a new label set",
        (bare, stock, ours),
        (Ratio("ours / stock, added to the first request of a label set", paired(ours, stock), 1 / 4),),
    )


def first_requests(name: str) -> float:
    with Contender(name) as child:
        return float(child.ask("newlabels"))
