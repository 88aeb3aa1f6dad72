"""What an application's own metrics cost, a Counter and a Histogram of the client library, a call each."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from calls import CALLS
from contender import Contender
from harness import Part, Ratio, interleave, paired

if TYPE_CHECKING:
    from harness import Scale


def measure(scale: Scale) -> Part:
    with ExitStack() as stack:
        children = {
            "stock": stack.enter_context(Contender("stock")),
            "single": stack.enter_context(Contender("stock", shared=False)),
            "ours": stack.enter_context(Contender("ours")),
        }
        asked: dict[str, Any] = {
            f"{name} {call}": partial(child.ask, call) for call in CALLS for name, child in children.items()
        }
        figures = interleave(asked, "ns", scale)
    ratios = tuple(
        Ratio(f"ours / {peer}, {call}", paired(figures[f"ours {call}"], figures[f"{peer} {call}"]), bound)
        for call in CALLS
        for peer, bound in (("stock", 0.7), ("single", 1.2))
    )
    return Part("An application's own metrics, a call", tuple(figures.values()), ratios)
