"""A contender as a child of the benchmark: a process and a shared directory of its own, for as long as it is measured."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from harness import Child, Figure, interleave

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Scale


class Contender(Child):
    """
    Runs the module *name* of contenders/. With *bare*, another module, it measures what *name* adds to that.

    *shared*: it has a shared directory, on tmpfs, as one of several workers has.
    """

    def __init__(self, name: str, bare: str | None = None, *, shared: bool = True) -> None:
        self._folder = directory()
        words = ["-m", "contenders", name, *(() if bare is None else ("--bare", bare))]
        super().__init__(words, environ(self._folder.name if shared else None))

    def __exit__(self, *raised: object) -> None:
        try:
            super().__exit__(*raised)
        finally:
            self._folder.cleanup()


def directory() -> tempfile.TemporaryDirectory[str]:
    """Make a directory on tmpfs, where a server has it too."""
    return tempfile.TemporaryDirectory(prefix="wsgi_prom-bench-", dir="/dev/shm")


def environ(folder: str | None) -> dict[str, str | None]:
    """Return the changes to a contender's environment; None unsets a variable, such as the caller's own settings."""
    ours = {name: None for name in os.environ if name.startswith("WSGI_PROM_")}
    return {**ours, "PROMETHEUS_MULTIPROC_DIR": folder}


def measure_slices(contenders: Mapping[str, str], work: str, unit: str, scale: Scale) -> dict[str, Figure]:
    """Measure *contenders*, modules by the name of their figure, in turns, each with the same *work*."""
    with ExitStack() as stack:
        children = {figure: stack.enter_context(Contender(name)) for figure, name in contenders.items()}
        return _in_turns(children, work, unit, scale)


def measure_added(
    bare: str, contenders: Mapping[str, str], work: str, unit: str, scale: Scale
) -> dict[str, Figure]:
    """
    Measure the contender whose figure is called *bare*, and what the other *contenders* add to it.

    Each round starts new processes, except in a quick run: a figure depends on where a process's memory lies.
    """
    starts = 1 if scale.quick else scale.rounds
    rounds = []
    for seed in range(starts):
        with ExitStack() as stack:
            children = {
                figure: stack.enter_context(Contender(name, None if figure == bare else contenders[bare]))
                for figure, name in contenders.items()
            }
            part = replace(scale, rounds=scale.rounds // starts)
            rounds.append(_in_turns(children, work, unit, part, seed))
    return {
        figure: Figure(
            figure,
            unit if figure == bare else f"{unit} added",
            tuple(value for found in rounds for value in found[figure].values),
        )
        for figure in contenders
    }


def _in_turns(
    children: Mapping[str, Contender], work: str, unit: str, scale: Scale, seed: int = 1
) -> dict[str, Figure]:
    asked: dict[str, Any] = {figure: partial(child.ask, work) for figure, child in children.items()}
    for ask in asked.values():
        ask()  # the first call also prepares the work
    return interleave(asked, unit, scale, seed)
