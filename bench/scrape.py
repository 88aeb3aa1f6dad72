"""
The cost of a scrape: by workers and label sets, warm and cold, changed and not, after many dead workers, and its memory.

Stock is the client library's MultiProcessCollector and generate_latest; both read what real processes wrote to tmpfs.
Between two scrapes every label set of every worker changes, the worst case, unless a figure says "unchanged".
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from filler import LABELS, Writers
from harness import Figure, Part, Ratio, Scale, interleave, paired
from reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Size(NamedTuple):
    workers: int
    labels: int

    def __str__(self) -> str:
        return f"{self.workers} x {self.labels}"


ONE: Final = Size(1, LABELS)
FEW: Final = Size(8, 100)
EIGHT: Final = Size(8, LABELS)
MANY: Final = Size(32, LABELS)
HUGE: Final = Size(512, LABELS)

# Workers that have ended, one after another, and the label sets of each. Few, since what matters is the number of files.
DEAD: Final = 300
QUICK_DEAD: Final = 100
DEAD_LABELS: Final = 10

CONTENDERS: Final = ("stock", "ours")


class Scraped:
    """A filled directory and a process that reads it."""

    def __init__(self, contender: str, writers: Writers, reader: Reader) -> None:
        self._contender = contender
        self.writers = writers
        self.reader = reader
        if contender == "ours":
            # Without the first scrape, which does more. Stock keeps nothing between scrapes, and takes 30 s for the largest size.
            reader.scrape()

    def changed(self) -> float:
        self.writers.change()
        return self.reader.scrape()

    def unchanged(self) -> float:
        return self.reader.scrape()

    def cold(self) -> float:
        """Return the time of the first scrape of an exporter that has just started, of workers that run already."""
        with Reader(self._contender, self.writers.path) as reader:
            return reader.scrape()


@contextmanager
def scraped(contender: str, size: Size, *, dead: int = 0) -> Iterator[Scraped]:
    """Have *size* living workers of *contender*, in a directory with the files of *dead* ones."""
    with Writers(contender) as writers:
        writers.end(dead, size.labels)
        writers.hold(*size)
        with Reader(contender, writers.path) as reader:
            yield Scraped(contender, writers, reader)


def measure(scale: Scale) -> Part:
    dead = QUICK_DEAD if scale.quick else DEAD
    figures = {**_one(scale), **_eights(scale), **_many(scale), **_dead(dead, scale)}
    if not scale.quick:
        figures |= _huge(scale)

    def ratio(what: str, top: str, bottom: str, bound: float, *, at_least: bool = False) -> Ratio:
        value = paired(figures[top], figures[bottom])
        return Ratio(f"{what}: {top} by {bottom}", value, bound, at_least)

    def faster(name: str, bound: float) -> Ratio:
        return ratio("scrape", f"stock {name}", f"ours {name}", bound, at_least=True)

    ratios = [
        faster(f"{MANY}", 60),
        faster(f"{ONE}", 25),
        faster(f"{FEW}", 25),
        faster(f"{MANY} cold", 30),
        # Ten times as many label sets, and 20 % of noise.
        ratio("linear in label sets", f"ours {EIGHT}", f"ours {FEW}", 12),
        ratio("dead workers", f"ours {dead} dead", "ours 0 dead", 1.2),
    ]
    if not scale.quick:
        ratios.append(ratio("memory of the reader", f"ours {HUGE} memory", f"stock {HUGE} memory", 0.2))
    return Part("A scrape", tuple(figures.values()), tuple(ratios))


def _one(scale: Scale) -> dict[str, Figure]:
    with ExitStack() as stack:
        both = {name: stack.enter_context(scraped(name, ONE)) for name in CONTENDERS}
        return interleave(_warm(both, ONE, stack, scale), "ms", Scale(scale.rounds, 2 if scale.quick else 7))


def _eights(scale: Scale) -> dict[str, Figure]:
    """Measure both sizes in the same turns: the ratio of ours to ours tells how the time grows."""
    with ExitStack() as stack:
        contenders: dict[str, Callable[[], float]] = {}
        for size in (FEW, EIGHT):
            # Without stock's larger one, which takes long and is in no ratio.
            names = ("ours",) if scale.quick and size == EIGHT else CONTENDERS
            both = {name: stack.enter_context(scraped(name, size)) for name in names}
            contenders |= _warm(both, size, stack, scale)
        return interleave(contenders, "ms", Scale(scale.rounds, 2 if scale.quick else 4))


def _many(scale: Scale) -> dict[str, Figure]:
    with ExitStack() as stack:
        both = {name: stack.enter_context(scraped(name, MANY)) for name in CONTENDERS}
        # Stock takes 2 s for each scrape.
        rounds, slices = (2, 1) if scale.quick else (scale.rounds, 3)
        figures = interleave(_warm(both, MANY, stack, scale), "ms", Scale(rounds, slices))
        cold = {f"{name} {MANY} cold": each.cold for name, each in both.items()}
        return figures | interleave(cold, "ms", Scale(1 if scale.quick else rounds, 1)) | _memory(both, MANY)


def _dead(dead: int, scale: Scale) -> dict[str, Figure]:
    """Measure one living worker, alone and in a directory with the files of *dead* ones."""
    size = Size(1, DEAD_LABELS)
    with ExitStack() as stack:
        contenders = {
            f"{name} {count} dead": stack.enter_context(scraped(name, size, dead=count)).changed
            for name in CONTENDERS
            for count in (0, dead)
        }
        return interleave(contenders, "ms", Scale(scale.rounds, 2 if scale.quick else 5))


def _huge(scale: Scale) -> dict[str, Figure]:
    """
    Measure the largest size, of which stock takes half a minute a scrape.

    Stock's writers end when they have written: their files stay, and unchanged ones take stock the same work. Ours would all
    get one slot then, so they stay alive.
    """
    with ExitStack() as stack:
        stock, ours = (stack.enter_context(Writers(name)) for name in CONTENDERS)
        stock.end(*HUGE, at_once=os.cpu_count() or 1)
        ours.hold(*HUGE)
        both = {
            name: Scraped(name, writers, stack.enter_context(Reader(name, writers.path)))
            for name, writers in (("stock", stock), ("ours", ours))
        }
        contenders = _warm(both, HUGE, stack, scale)
        del contenders[f"stock {HUGE} unchanged"]
        return interleave(contenders, "ms", Scale(2, 1)) | _memory(both, HUGE)


def _warm(
    both: dict[str, Scraped], size: Size, stack: ExitStack, scale: Scale
) -> dict[str, Callable[[], float]]:
    contenders: dict[str, Callable[[], float]] = {}
    for name, each in both.items():
        contenders[f"{name} {size}"] = each.changed
        # Stock does the same work whether or not values have changed.
        if name == "ours" or not scale.quick:
            contenders[f"{name} {size} unchanged"] = each.unchanged
    if "stock" in both:
        reader = stack.enter_context(Reader("read", both["stock"].writers.path))
        contenders[f"read {size}"] = reader.scrape
    return contenders


def _memory(both: dict[str, Scraped], size: Size) -> dict[str, Figure]:
    names = {f"{name} {size} memory": each for name, each in both.items()}
    return {name: Figure(name, "MB", (each.reader.memory(),)) for name, each in names.items()}
