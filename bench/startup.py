"""The cost of a worker's start: imports, taking over a slot, and shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from contender import Contender, directory, environ, measure_slices
from harness import FOLDER, Figure, Part, Ratio, added, interleave, merged, paired

if TYPE_CHECKING:
    from harness import Scale

_MIDDLEWARE: Final = "from wsgi_prom import PrometheusMiddleware; PrometheusMiddleware(print)"

# A program, and whether it has a shared directory, which brings the client library in. The first is the interpreter alone.
_PROGRAMS: Final = {
    "bare": ("pass", False),
    "stock import": ("import prometheus_client", False),
    "ours import": ("import wsgi_prom", False),
    "stock made": ("from contenders.stock import application; application()", True),
    "ours made": (_MIDDLEWARE, True),
    "ours made, one process": (_MIDDLEWARE, False),
}


def measure(scale: Scale) -> Part:
    with directory() as folder:
        programs: dict[str, Any] = {
            name: partial(processor_milliseconds, program, folder if shared else None)
            for name, (program, shared) in _PROGRAMS.items()
        }
        found = interleave(programs, "ms", replace(scale, slices=3))
    bare = found.pop("bare")
    imports = {name: added(figure, bare) for name, figure in found.items()}
    taken = measure_slices({"ours slot taken over": "ours"}, "takeover", "ms", scale)["ours slot taken over"]
    stock, ours = (Figure(f"{name} memory", "bytes", (shared_bytes(name),)) for name in ("stock", "ours"))
    return Part(
        "A worker's start, and its shared memory",
        (bare, *imports.values(), taken, stock, ours),
        (
            Ratio(
                "import wsgi_prom / import prometheus_client",
                paired(imports["ours import"], imports["stock import"]),
                1.2,
            ),
            Ratio("milliseconds to take over a slot of 1,000 label sets", taken.median, 10),
            Ratio("ours / stock, bytes of shared memory with 1,000 label sets", paired(ours, stock), 1 / 8),
        ),
    )


def processor_milliseconds(program: str, folder: str | None) -> float:
    """Run *program* in a new interpreter and return its CPU time: the wall clock includes other processes."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=FOLDER,
        env=merged(environ(folder)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{program} ended with {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def shared_bytes(name: str) -> float:
    with Contender(name) as child:
        return float(child.ask("memory"))
