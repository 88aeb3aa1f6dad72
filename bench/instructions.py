"""
What is added to a request in instructions, as callgrind counts them: the figure that repeats itself, on any machine that
has the same Python.

A contender does a fixed amount of work twice, the second time less of it. The difference is the work itself, whatever it
took to start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from calls import CALLS
from contender import directory, environ
from harness import FOLDER, Figure, Part, Ratio, added, merged, paired

if TYPE_CHECKING:
    from harness import Scale

_MORE: Final = 3000
_LESS: Final = 1000

REQUESTS: Final = {"bare": "bare", "floor": "floor", "stock": "stock", "ours": "ours"}
MORE_REQUESTS: Final = {
    "ours count+duration": "ours_count",
    "stock label": "stock_label",
    "ours label": "ours_label",
}

# What, of what, at most.
_PROMISED: Final = (
    ("ours", "stock", 0.33),
    ("ours", "floor", 3.5),
    ("ours count+duration", "stock", 0.22),
    ("ours label", "stock label", 0.33),
)


def measure(scale: Scale) -> Part:
    work = {name: (module, "requests", True) for name, module in REQUESTS.items()}
    if not scale.quick:
        work |= {name: (module, "requests", True) for name, module in MORE_REQUESTS.items()}
        for call in CALLS:
            work |= {
                f"stock {call}": ("stock", call, True),
                f"single {call}": ("stock", call, False),
                f"ours {call}": ("ours", call, True),
            }
    figures = count_all(work)
    bare = figures["bare"]
    requests = {name: added(figures[name], bare) for name in (REQUESTS | MORE_REQUESTS) if name in figures}
    figures |= {**requests, "bare": bare}
    ratios = [
        Ratio(
            f"{top} / {bottom}, instructions added to a request", paired(figures[top], figures[bottom]), bound
        )
        for top, bottom, bound in _PROMISED
        if top in figures
    ]
    ratios += [
        Ratio(
            f"ours / {peer}, {call}, instructions a call",
            paired(figures[f"ours {call}"], figures[f"{peer} {call}"]),
            bound,
        )
        for call in CALLS
        for peer, bound in (("stock", 0.7), ("single", 1.2))
        if f"ours {call}" in figures
    ]
    return Part("Instructions", tuple(figures.values()), tuple(ratios))


def count_all(work: dict[str, tuple[str, str, bool]]) -> dict[str, Figure]:
    """Count the instructions of each *work*: contender, kind of work, and whether it shares a directory."""
    # Side by side: what is counted does not depend on what else runs.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = pool.map(lambda item: count(*item), work.values())
        return {
            name: Figure(name, "instructions", (value,)) for name, value in zip(work, counts, strict=True)
        }


def count(contender: str, work: str = "requests", shared: bool = True) -> float:
    """Return how many instructions *contender* takes for one piece of *work*."""
    more, less = (_run(contender, work, amount, shared=shared) for amount in (_MORE, _LESS))
    return (more - less) / (_MORE - _LESS)


def _run(contender: str, work: str, amount: int, *, shared: bool) -> int:
    with directory() as folder, directory() as out:
        file = Path(out, "callgrind.out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={file}", sys.executable]
        command += ["-m", "contenders", contender, "--fixed", work, str(amount)]
        done = subprocess.run(
            command,
            cwd=FOLDER,
            env=merged({**environ(folder if shared else None), "PYTHONDONTWRITEBYTECODE": "1"}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
        return int(re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)[1])
