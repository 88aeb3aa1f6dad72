"""The exporter as a process of its own: whose child it is, what it gets from its server, and how it ends."""

from __future__ import annotations

from pathlib import Path

import live
import pytest
import servers

# What an agent of tracing puts on the path of every Python that is started below it.
AGENT = "import os; open(os.environ['AGENT_LOG'], 'a').write(f'{os.getpid()}\\n')"


def zombies(pid: int) -> list[int]:
    """Return the children of *pid* that have ended and that it has not asked for."""
    children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [child for child in children if live.parent(child) == pid and live.stat_fields(child)[0] == "Z"]


@pytest.mark.parametrize("name", servers.BOTH)
def test_the_children_of_a_master_are_its_workers(name: str) -> None:
    """Who counts them (Airflow's webserver, Datadog's gunicorn check) finds no exporter, and no zombie, among them."""
    with servers.start(name, workers=2) as server:
        guard, _ = servers.pair(server)
        workers = server.workers()
        children = server.children()
        left = zombies(server.pid)
        parent = live.parent(guard)
        log = server.log()
    assert 2 == len(workers)
    assert workers == children
    assert [] == left
    assert parent not in {server.pid, *workers}
    # uWSGI says so of each child that ends and is no worker.
    assert "subprocess" not in log
    assert [] == server.leftovers


@pytest.mark.parametrize("name", servers.BOTH)
def test_no_agent_starts_in_the_exporter(name: str, tmp_path: Path) -> None:
    """A sitecustomize on the path, by which ddtrace, New Relic and OpenTelemetry start themselves in every Python."""
    (tmp_path / "sitecustomize.py").write_text(AGENT)
    log = tmp_path / "agent.log"
    path = f"{tmp_path}:{live.ROOT}:{live.APPS}"
    with servers.start(name, workers=1, PYTHONPATH=path, AGENT_LOG=str(log)) as server:
        exporters = {*servers.pair(server)}
        samples = server.samples()
        started = {int(line) for line in log.read_text().split()}
    assert server.pid in started
    assert set() == exporters & started
    assert ("wsgi_prom_build_info" in {name for name, _ in samples}) is True
