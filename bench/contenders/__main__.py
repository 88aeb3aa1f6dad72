"""
Be one contender: `python -m contenders NAME`, in a process of its own.

It answers with a slice of the work that it is asked for; with --fixed it does so much of one work, and ends.
"""

from __future__ import annotations

import argparse
import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from harness import answer
from work import FIXED, SLICES

if TYPE_CHECKING:
    from collections.abc import Callable

parser = argparse.ArgumentParser(prog="contenders", description=__doc__)
parser.add_argument("name")
parser.add_argument("--fixed", nargs=2, metavar=("WORK", "COUNT"))
arguments = parser.parse_args()
application = import_module(f"contenders.{arguments.name}").application()

if arguments.fixed:
    work, count = arguments.fixed
    FIXED[work](application, int(count))
    # What the interpreter does at its end depends on what is left over, which is not what is counted.
    os._exit(0)


@cache
def slices(work: str) -> Callable[[], float]:
    return SLICES[work](application)


answer(lambda work: slices(work)())
