"""
Be one contender: `python -m contenders NAME`, in a process of its own.

It answers with a slice of the work that it is asked for, or with --bare what it adds to that contender's. With --fixed it
runs under callgrind: it warms up, switches counting on, and does so much of one work, --bare's first, between calls of
sched_yield, at which callgrind writes down its counts.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import subprocess
import sys
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
# The contender's first: Django is set up once in a process, with the apps of who comes first.
apps = [
    import_module(f"contenders.{name}").application() for name in (arguments.name, arguments.bare) if name
]

if arguments.fixed:
    work, count = arguments.fixed
    if "wsgi_prom.request.recorder" in sys.modules:
        # What is done once a second: callgrind's seconds have a fiftieth of the requests, and fewer on a busy machine
        # (a request under Flask was 28.6k or 30.8k).
        sys.modules["wsgi_prom.request.recorder"]._CHECK_SECONDS = math.inf
    runs = [FIXED[work](app, int(count)) for app in reversed(apps)]
    # A collection that goes through all environs that wait is no part of a request: one more of them is 5k of each.
    gc.collect()
    gc.freeze()
    # Without counting, start-up and warm-up take a tenth of the time.
    switch = subprocess.Popen(["callgrind_control", "-i", "on", str(os.getpid())], stdout=subprocess.PIPE)
    while switch.poll() is None:
        pass  # callgrind takes commands from a process that runs, not from one that waits
    os.sched_yield()
    for run in runs:
        run()
        os.sched_yield()
    os._exit(0)

# Not above: under callgrind an import takes seconds.
from harness import answer  # noqa: E402


@cache
def slices(work: str) -> Callable[[], float]:
    return SLICES[work](*apps)


answer(lambda work: slices(work)())
