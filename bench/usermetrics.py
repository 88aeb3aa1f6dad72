"""The cost of a call of an application's own metrics, a Counter and a Histogram of the client library."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from calls import CALLS
from contender import Contender
from harness import Part, Ratio, interleave, paired

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Figure, Scale


# Modules of contenders/, and whether they share a directory: without one, the client library counts in one process's memory.
CONTENDERS: Final = {"stock": ("stock", True), "single": ("stock", False), "ours": ("ours", True)}

# Ours takes at most this many times what the contender takes.
PROMISED: Final = (("stock", 0.7), ("single", 1.2))


def measure(scale: Scale) -> Part:
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(Contender(module, shared=shared))
            for name, (module, shared) in CONTENDERS.items()
        }
        asked: dict[str, Any] = {
            f"{name} {call}": partial(child.ask, call) for call in CALLS for name, child in children.items()
        }
        figures = interleave(asked, "ns", scale)
    return Part("An application's own metrics, a call", tuple(figures.values()), ratios(figures, "time"))


def ratios(figures: Mapping[str, Figure], unit: str) -> tuple[Ratio, ...]:
    return tuple(
        Ratio(
            f"ours / {peer}, {call}, {unit}",
            paired(figures[f"ours {call}"], figures[f"{peer} {call}"]),
            bound,
        )
        for call in CALLS
        for peer, bound in PROMISED
    )
