"""
Be one contender: `python -m contenders NAME`, in a process of its own.

It answers with a slice of the work that it is asked for, or with --bare what it adds to that contender's; with --fixed it
warms up and does so much of one work, between two calls of sched_yield, by which callgrind knows what to count.
"""

from __future__ import annotations

import argparse
import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from work import FIXED, SLICES

if TYPE_CHECKING:
    from collections.abc import Callable

parser = argparse.ArgumentParser(prog="contenders", description=__doc__)
parser.add_argument("name")
parser.add_argument("--bare", metavar="NAME")
parser.add_argument("--fixed", nargs=2, metavar=("WORK", "COUNT"))
arguments = parser.parse_args()
application = import_module(f"contenders.{arguments.name}").application()

if arguments.fixed:
    work, count = arguments.fixed
    run = FIXED[work](application, int(count))
    os.sched_yield()
    run()
    os.sched_yield()
    os._exit(0)

# Not above: under callgrind an import takes seconds.
from harness import answer  # noqa: E402


@cache
def slices(work: str) -> Callable[[], float]:
    bare = arguments.bare and import_module(f"contenders.{arguments.bare}").application()
    return SLICES[work](application, bare)


answer(lambda work: slices(work)())
