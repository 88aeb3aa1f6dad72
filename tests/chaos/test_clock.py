"""The clock set back and forward under a server that serves."""

from __future__ import annotations

import mmap
import subprocess
import time
from typing import TYPE_CHECKING

import live
import pytest
import servers
from chaos import targets
from chaos.referee import KINDS, Case
from chaos.scale import instants, scale

if TYPE_CHECKING:
    from pathlib import Path

# Seconds to add. Nobody waits for an hour in a queue: what is further off is no waiting time.
STEPS = [1800, -3600, 86400 * 400, -86400 * 400, 3600 * 3, -5, 20, 0]


class Clock:
    """A wall clock that can be set for the processes that start with *environment*."""

    def __init__(self, folder: Path) -> None:
        library, path = folder / "clock.so", folder / "clock"
        source = live.ROOT / "tests" / "chaos" / "clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        path.write_bytes(bytes(8))
        # Mapped by each process: what is written here is what the next one reads.
        with path.open("r+b") as file:
            self._offset = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(path)}

    def set(self, offset: int) -> None:
        self._offset[0] = offset


@pytest.mark.parametrize("name", servers.BOTH)
def test_a_clock_that_is_set_back_and_forward_changes_no_count(name: str, tmp_path: Path) -> None:
    """Setting the clock changes no duration; queue times are bounded, and each request is counted once."""
    random = instants(f"clock {name}")
    clock = Clock(tmp_path)
    with targets.start(name, workers=2, **clock.environment) as server:
        # Each claims to have waited since the true now, about.
        waiting = tuple(
            kind._replace(headers=(("X-Request-Start", f"t={time.time():.3f}"),)) for kind in KINDS
        )
        with Case(f"clock set, {name}", server, kinds=waiting, clients=3) as case:
            for number in range(scale.clock_steps):
                offset = STEPS[number] if number < len(STEPS) else random.choice(STEPS)
                with case.fault(cuts=False):
                    clock.set(offset)
                    seen = live.eventually(lambda: ahead(case), lambda s, n=offset: abs(s - n) < 60)
                    assert abs(seen - offset) < 60
                    case.wait_for(15)
            clock.set(0)
            case.wait_for(15)
        page, requests, seconds = case.scrapes.last, case.figures.requests, case.figures.seconds

    durations = live.labelled(page, "http_request_duration_seconds_sum")
    assert all(0 <= spent < seconds * 3 for spent in durations.values())
    assert servers.value(page, "http_request_queue_seconds_count") < requests
    assert 0 <= servers.value(page, "http_request_queue_seconds_sum") < 3600 * requests


def ahead(case: Case) -> float:
    """Return how far the server's clock is ahead of ours, and count the request."""
    told = float(case.server.get("/clock").body)
    case.tally.completed["/clock", "200"] += 1
    return told - time.time()
