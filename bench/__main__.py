"""
All benchmarks: `python bench`, from the project's root.

What each figure means is in bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import instructions
import latency
import newlabels
import plot
import request
import scrape
import serverfigures
import startup
import throughput
import usermetrics
from harness import FULL, QUICK
from report import as_json, table, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness import Part

PARTS: Final = (
    request,
    newlabels,
    usermetrics,
    startup,
    instructions,
    scrape,
    serverfigures,
    throughput,
    latency,
)


def _end(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    sys.exit("ended by SIGTERM")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and contenders: two minutes in all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw scrape.svg and request.svg there")
    parser.add_argument(
        "--only",
        action="append",
        choices=[part.__name__ for part in PARTS],
        metavar="PART",
        help="only this part, may be repeated: %(choices)s",
    )
    arguments = parser.parse_args(argv)
    # As Ctrl-C does: the `with` statements of a part remove its directories and end its servers.
    signal.signal(signal.SIGTERM, _end)
    parts: dict[str, Part] = {}
    for module in PARTS:
        name = module.__name__
        if arguments.only and name not in arguments.only:
            continue
        started = time.monotonic()
        parts[name] = module.measure(QUICK if arguments.quick else FULL)
        print(f"{table(parts[name])}\n  {name}: {time.monotonic() - started:.0f} seconds\n", flush=True)
    print(verdicts(list(parts.values())))
    if arguments.json is not None:
        found = as_json(parts, [sys.executable, *sys.argv], datetime.now(UTC))
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot is not None:
        for file in plot.draw(parts, arguments.plot):
            print(file)
    return 0


sys.exit(main())
