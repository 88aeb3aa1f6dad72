"""
Shared by all benchmarks: children that are measured in turns, figures with their spread, ratios with a verdict.

Absolute times hold for one machine in one minute. So contenders are measured in short alternating slices, a noisy neighbour
slows all of them, and the result is the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

FOLDER: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Scale:
    """How much is measured: *slices* in each of *rounds*. *quick*: only what fits into two minutes."""

    rounds: int = 7
    slices: int = 15
    quick: bool = False


FULL: Final = Scale()
QUICK: Final = Scale(rounds=3, slices=3, quick=True)


@dataclass(frozen=True)
class Figure:
    """What was measured of one contender: a value for each round."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest."""
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Ratio:
    """A ratio. *bound* is the most that was promised; with *at_least*, the least; None if nothing was."""

    what: str
    value: float
    bound: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        if self.bound is None:
            return f"    {self.value:8.2f}  not judged     {self.what}"
        word = "at least" if self.at_least else "at most"
        return f"{'yes' if self.met else 'NO ':3} {self.value:8.2f}  {word} {self.bound:<6g} {self.what}"


@dataclass(frozen=True)
class Part:
    """One benchmark's outcome."""

    title: str
    figures: tuple[Figure, ...]
    ratios: tuple[Ratio, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "figures": [
                {"name": figure.name, "unit": figure.unit, "median": figure.median, "values": figure.values}
                for figure in self.figures
            ],
            "ratios": [{**vars(ratio), "met": ratio.met} for ratio in self.ratios],
        }


def added(figure: Figure, bare: Figure) -> Figure:
    """Return *figure* less *bare*, round by round."""
    values = tuple(value - less for value, less in zip(figure.values, bare.values, strict=True))
    return Figure(figure.name, f"{figure.unit} added", values)


def paired(top: Figure, bottom: Figure, base: Figure | None = None) -> float:
    """Return the median of the rounds' ratios of *top* to *bottom*, each less *base* of the same round."""
    bases = base.values if base is not None else (0.0,) * len(top.values)
    ratios = [(a - c) / (b - c) for a, b, c in zip(top.values, bottom.values, bases, strict=True)]
    return statistics.median(ratios)


def merged(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with *changes*; None unsets a variable."""
    # The order of a set, and so the work on it, is the same in all processes.
    values = {**os.environ, "PYTHONHASHSEED": "0", **changes}
    return {name: value for name, value in values.items() if value is not None}


class Child:
    """A process that measures one thing. It answers each JSON line that it is sent with another one."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str | None] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=FOLDER,
            env=merged(environ or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it has ended, and said why
                    pipe.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Any = None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait(60)}")
        return json.loads(answer)


def answer(respond: Callable[[Any], Any]) -> None:
    """Run in a `Child`: *respond* to each question until there are no more."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(respond(json.loads(line))) + "\n")
        sys.stdout.flush()


def interleave(
    contenders: Mapping[str, Callable[[], float]], unit: str, scale: Scale, seed: int = 1
) -> dict[str, Figure]:
    """
    Measure *contenders* in turns, in another order each time.

    A round's value is the median of its slices.
    """
    chance = random.Random(seed)
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(scale.rounds):
        slices: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(scale.slices):
            for name in chance.sample(list(contenders), len(contenders)):
                slices[name].append(contenders[name]())
        for name, values in slices.items():
            rounds[name].append(statistics.median(values))
    return {name: Figure(name, unit, tuple(values)) for name, values in rounds.items()}
