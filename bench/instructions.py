"""
Instructions added to a request, counted by callgrind: a figure that is the same on every machine with the same Python.

A contender warms up, tells callgrind to count, and does a fixed amount of work. It calls sched_yield before and after the
work: there callgrind writes its count and starts again from 0. Work that is done once a second is not included.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import request
import usermetrics
from calls import CALLS
from contender import directory, environ
from harness import FOLDER, Figure, Part, merged

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from harness import Scale

_AMOUNT: Final = 1000
# A framework's requests take half a minute on a quiet machine, and more than five minutes beside twenty busy processes.
_SECONDS: Final = 800

# The figures that the tests check and a quick run measures.
GUARDED: Final = frozenset({
    "floor", "stock", "ours", "ours count+duration", "stock label", "ours label", "ours 204", "ours proxied", "ours body",
})  # fmt: skip


class Counted(NamedTuple):
    """*work* of a *contender*, with a directory if *shared*. With *bare*, another contender: what it adds to that one's."""

    contender: str
    shared: bool = True
    work: str = "requests"
    bare: str | None = None


def measure(scale: Scale) -> Part:
    promised = (*request.PROMISED, *request.PROMISED_IN_INSTRUCTIONS, *request.SHOWN_IN_INSTRUCTIONS)
    figures = of_requests(GUARDED if scale.quick else {name for found in promised for name in found[:2]})
    ratios = request.ratios(figures, "instructions")
    if not scale.quick:
        calls = count_all(
            {
                f"{name} {call}": Counted(*contender, call)
                for call in CALLS
                for name, contender in usermetrics.CONTENDERS.items()
            }
        )
        figures |= calls
        ratios += usermetrics.ratios(calls, "instructions")
    return Part("Instructions", tuple(figures.values()), ratios)


def of_requests(names: Collection[str]) -> dict[str, Figure]:
    """Return the figures *names* of the request part, in instructions. There are none with threads: they take turns."""
    wanted: dict[str, Counted] = {}
    for group in (*request.GROUPS, *request.GROUPS_IN_INSTRUCTIONS):
        if group.work == "requests":
            bare = group.contenders[group.bare]
            # Both in one process: between two, the count of a framework's own work differed by half a per cent.
            wanted |= {
                name: Counted(module, bare=None if module == bare else bare)
                for name, module in group.contenders.items()
                if name in names
            }
    return count_all(wanted)


def count_all(wanted: Mapping[str, Counted]) -> dict[str, Figure]:
    # In parallel: a count does not depend on what else runs.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = pool.map(count, wanted.values())
        return {
            name: Figure(name, "instructions added" if counted.bare else "instructions", (value,))
            for (name, counted), value in zip(wanted.items(), counts, strict=True)
        }


def count(counted: Counted) -> float:
    """Return how many instructions one piece of the work takes, or adds."""
    with directory() as folder, directory() as out:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--dump-before=sched_yield"]
        command += [
            f"--callgrind-out-file={out}/counts",
            sys.executable,
            "-m",
            "contenders",
            counted.contender,
            *(["--bare", counted.bare] if counted.bare else []),
        ]
        done = subprocess.run(
            [*command, "--fixed", counted.work, str(_AMOUNT)],
            cwd=FOLDER,
            env=merged(environ(folder if counted.shared else None)),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
        # The first file counts what came before the work, the one without a number what came after.
        totals = [_total(Path(out, f"counts.{number}")) for number in ((2, 3) if counted.bare else (2,))]
        return (totals[-1] - sum(totals[:-1])) / _AMOUNT


def _total(path: Path) -> int:
    found = re.search(r"^totals: (\d+)$", path.read_text(), re.MULTILINE)
    assert found
    return int(found[1])
