"""Containers that share a volume: the same pids in two pid namespaces, one directory."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import live
import processes
from chaos import referee
from chaos.referee import KINDS, Case, Figures
from chaos.scale import scale
from users import needs_root

APART = ("unshare", "--pid", "--fork", "--mount-proc")
TIMES = 20_000

RECORDER = """
import os, sys
from wsgi_prom.client import patch
patch.install()
from prometheus_client import Counter
counter = Counter("app_apart_total", "By two at once.")
counter.inc()
print(os.getpid(), flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[1]) - 1):
    counter.inc()
"""


def read(path: Path) -> live.Samples:
    from wsgi_prom.exporter.exposition import render
    from wsgi_prom.merge.collector import Collector

    return live.parse_samples(render(Collector(path).collect()))


@needs_root
def test_processes_of_the_same_pid_add_up(tmp_path: Path) -> None:
    """Two processes that are both pid 1 of their namespace record into two slots, and the sum is exact."""
    shared = tmp_path / "shared"
    env = live.environment({"PROMETHEUS_MULTIPROC_DIR": str(shared)}, runtime=tmp_path)
    rounds = max(1, scale.storms // 3)
    pids = []
    for _ in range(rounds):
        pair = [
            subprocess.Popen(
                [*APART, sys.executable, "-c", RECORDER, str(TIMES)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        for process in pair:
            assert process.stdout is not None
            pids.append(int(process.stdout.readline()))
        # Both have recorded: each has the slot that it will have.
        for process in pair:
            process.communicate(b"\n", timeout=live.START_SECONDS)
        assert [0, 0] == [process.returncode for process in pair]
    counted = processes.in_child(read, shared)["app_apart_total", frozenset()]
    wanted = 2 * TIMES * rounds
    referee.file(
        Figures(
            "two pid namespaces, increments",
            faults=rounds,
            requests=wanted,
            lost=max(0, wanted - int(counted)),
            doubled=max(0, int(counted) - wanted),
            scrapes=1,
        )
    )
    assert [1] * 2 * rounds == pids
    assert counted == wanted
    assert len(list(shared.glob("*.values"))) == 2


def test_servers_in_two_pid_namespaces_are_counted_together(tmp_path: Path) -> None:
    """Two gunicorns with the same pids on one volume have one exporter with the exact sum."""
    tmp_path.chmod(0o700)
    first, second = (apart(tmp_path) for _ in range(2))
    with first:
        assert first.metrics_url
        with second:
            with Case("two pid namespaces, gunicorn", first) as case, case.fault(cuts=False):
                asked = KINDS * 20
                with ThreadPoolExecutor(4) as pool:
                    assert all(pool.map(lambda kind: case.tally.send(second.url, kind), asked))
                case.wait_for(40)
            same = Counter(map(inner_pid, [*first.descendants(), *second.descendants()]))
            end(second)
        end(first)
    assert same[1] == 2
    assert max(same.values()) == 2


def apart(path: Path) -> live.LiveServer:
    server = live.gunicorn("chaotic:app", workers=2, PROMETHEUS_MULTIPROC_DIR=str(path))
    server.command[:0] = APART
    return server


def inner_pid(pid: int) -> int:
    """Return what a process calls itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def end(server: live.LiveServer) -> None:
    # unshare does not pass a signal on.
    (arbiter,) = server.children()
    server.signal_child(arbiter, signal.SIGTERM)
    server.wait()
