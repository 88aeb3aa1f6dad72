"""Servers whose targets are registered, the `wsgi-prom sd` that follows them, and a Prometheus that finds them."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import exporters
import live

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# Short: tests wait for the end of it. etcd grants no lease for less.
SECONDS = "2"


def exporter(folder: Path, registries: str, **env: str) -> live.LiveServer:
    """Return an exporter that was started by hand, of an empty directory, whose targets are registered; not yet started."""
    more = {"WSGI_PROM_SD": registries, "WSGI_PROM_SD_SECONDS": SECONDS, "WSGI_PROM_APP": "shop:app", **env}
    return exporters.serve(folder, **more)


def target(server: live.LiveServer) -> dict[str, Any]:
    """Return what is to be registered of an `exporter` that runs."""
    host, port = exporters.address(server)
    address = f"{host}:{port}"
    return {"targets": [address], "labels": {"instance": address, "application": "shop:app"}}


def follower(url: str, out: Path, **env: str) -> live.LiveServer:
    command = [sys.executable, "-m", "wsgi_prom", "sd", "--etcd", url, "--out", str(out)]
    return live.LiveServer(command, env=env)


def read(path: Path) -> list[dict[str, Any]] | None:
    """Return the targets in the file *path*, None if there is none."""
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found


def registrars(server: live.LiveServer) -> list[int]:
    return [pid for pid in server.processes() if " register " in live.command_line(pid)]


class Prometheus:
    def __init__(self, server: live.LiveServer) -> None:
        self._server = server

    def targets(self, job: str) -> list[dict[str, Any]]:
        """Return the labels of the targets of *job* that are up, each with its address as `address`, in its order."""
        answer = json.loads(self._server.get("/api/v1/targets?state=active").body)
        found = [
            {**item["labels"], "address": item["discoveredLabels"]["__address__"]}
            for item in answer["data"]["activeTargets"]
            if item["scrapePool"] == job and item["health"] == "up"
        ]
        return sorted(found, key=lambda labels: str(labels["address"]))


@contextlib.contextmanager
def prometheus(folder: Path, jobs: Mapping[str, Mapping[str, Any]]) -> Iterator[Prometheus]:
    """Start a Prometheus with *jobs*, each a part of a scrape configuration by its name."""
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": name, **job} for name, job in jobs.items()],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with live.hold_port() as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={folder / 'data'}"]  # fmt: skip
        with live.LiveServer(
            command, ready=(r"ready to receive web requests", 1), url=f"http://{address}"
        ) as server:
            yield Prometheus(server)
