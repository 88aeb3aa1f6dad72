"""A server at full speed for a long time: nothing grows."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import live
import pytest
import servers
from chaos import targets
from chaos.referee import Case
from chaos.scale import scale, some

# Of a process's memory, between the second quarter of the run and the last: an allocator's ups and downs. Where threads
# are, glibc gives one of them an arena when two meet: a step of 1.9 MB, seen once under uWSGI's threads in 200,000
# requests a worker, and flat after it. A leak of 20 bytes a request is more.
GROWTH_KB = 3072


class Watch:
    """The memory and the descriptors of processes, by time."""

    def __init__(self, pids: list[int]) -> None:
        self.memory: dict[int, list[int]] = {pid: [] for pid in pids}
        self.descriptors: dict[int, list[int]] = {pid: [] for pid in pids}

    def look(self) -> None:
        for pid, found in self.memory.items():
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            found.append(int(next(line for line in status if line.startswith("VmRSS:")).split()[1]))
        for pid, count in self.open_descriptors().items():
            self.descriptors[pid].append(count)

    def open_descriptors(self) -> dict[int, int]:
        return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in self.memory}


def quarters(values: list[int]) -> tuple[list[int], list[int]]:
    """Return the second and the last quarter: the first is for what is loaded late and cached once."""
    size = len(values) // 4
    return values[size : 2 * size], values[-size:]


def sizes(directory: Path) -> dict[str, int]:
    return {name: found.st_size for name, found in servers.worker_files(directory).items()}


@pytest.mark.parametrize(
    "name", some(["gunicorn gthread", "uwsgi prefork", "gunicorn sync", "uwsgi threads"])
)
def test_nothing_grows_at_full_speed(name: str) -> None:
    """The memory of workers and exporter, and their descriptors and files, do not grow."""
    with targets.start(name, workers=2) as server:
        with Case(f"full speed, {name}", server, rest=0) as case:
            case.wait_for(200)
            directory = servers.shared_directory(server)
            files = sizes(directory)
            watch = Watch([*server.workers(), *servers.exporter_processes(server)])
            end = time.monotonic() + scale.seconds
            while time.monotonic() < end:
                watch.look()
                time.sleep(min(1, scale.seconds / 60))
            last_files = sizes(directory)
            case.stop_traffic()
            # At rest: no more than it had in the midst of traffic.
            wanted = {pid: min(quarters(found)[0]) for pid, found in watch.descriptors.items()}
            most = live.latest(
                watch.open_descriptors, lambda found: all(found[pid] <= wanted[pid] for pid in wanted), 10
            )
            assert list(watch.memory) == [*server.workers(), *servers.exporter_processes(server)]
    for pid, found in watch.memory.items():
        middle, last = quarters(found)
        print(
            f"{live.command_line(pid) or pid}: {statistics.median(middle)} kB and then {statistics.median(last)} kB"
        )
        assert statistics.median(last) - statistics.median(middle) < GROWTH_KB
    assert [] == [(pid, most[pid], wanted[pid]) for pid in wanted if most[pid] > wanted[pid]]
    assert files == last_files
