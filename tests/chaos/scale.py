"""The number of faults: a few in a test run, or all that were promised (`make chaos`)."""

from __future__ import annotations

import os
import random
from typing import Final, NamedTuple


class Scale(NamedTuple):
    """Numbers of faults, the length of the long run in seconds, and how dense the traffic is."""

    kills: int
    stops: int
    exporter_kills: int
    storms: int
    lives: int
    server_lives: int
    reloads: int
    # Those for which uWSGI takes seconds.
    slow_reloads: int
    forks: int
    clock_steps: int
    # Of tests/test_referee.py and tests/test_bounded.py.
    plans: int
    hostile_paths: int
    seconds: float
    # Between two requests of a client.
    rest: float


SHORT: Final = Scale(
    kills=10,
    stops=3,
    exporter_kills=3,
    storms=3,
    lives=200,
    server_lives=6,
    reloads=2,
    slow_reloads=1,
    forks=8,
    clock_steps=4,
    plans=40,
    hostile_paths=4_000,
    seconds=5,
    rest=0.015,
)
FULL: Final = Scale(
    kills=500,
    stops=100,
    exporter_kills=50,
    storms=100,
    lives=10_000,
    server_lives=1_000,
    reloads=50,
    slow_reloads=50,
    forks=200,
    clock_steps=100,
    plans=400,
    hostile_paths=10_000,
    seconds=float(os.environ.get("CHAOS_HOURS") or 1 / 6) * 3600,
    rest=0.004,
)
NAMES: Final = {"short": SHORT, "full": FULL}

# What whoever runs the tests may ask for. Another word is a KeyError that names it.
scale: Final = NAMES[os.environ.get("CHAOS_SCALE") or "short"]

# Printed with the table: the same seed gives the same instants, as far as a machine repeats itself.
SEED: Final = os.environ["CHAOS_SEED"]


def instants(case: str) -> random.Random:
    """Return what the instants and victims of *case* are drawn from."""
    return random.Random(f"{SEED} {case}")


def some(names: list[str]) -> list[str]:
    """Return those of *names* that there is time for: the first one of each server, or all."""
    if scale is FULL:
        return names
    return list({name.split()[0]: name for name in reversed(names)}.values())
