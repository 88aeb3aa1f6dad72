"""
What one Prometheus needs for a fleet: many instances with the page of a real server, which one process serves at a path each.

Run by `make fleet`, in the environment of the tests. docs/scale.md quotes what it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# Not the working directory's: the server's workers import this file as the application.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runner.environment import ROOT
from runner.server import Server
from runner.waits import eventually
from wsgi_prom import set_route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

ROUTES: Final = 30
WORKERS: Final = 4
INTERVAL: Final = 15
# Prometheus' own default, and the time after which it gives up a query.
EVALUATION: Final = 60
QUERY_SECONDS: Final = 120
RULES_SECONDS: Final = 900
EXPRESSIONS: Final = {
    "requests per second by route": "sum by (route) (rate(http_requests_total[1m]))",
    "p99 by route": "histogram_quantile(0.99, sum by (route, le) (rate(http_request_duration_seconds_bucket[1m])))",
}
# A sample of a type that only rises, and its value.
_SAMPLE: Final = re.compile(r"(\S+ |\S+\{.*\} )(\S+)")


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer as the application of the fleet: 30 routes, of which a third take POST too, some not found, some failed."""
    number = int(environ["PATH_INFO"].rpartition("/")[2] or 0)
    set_route(environ, f"/shops/<int:shop>/orders/{number}")
    status = {0: "500 Internal Server Error", 1: "404 Not Found"}.get(number % 10, "200 OK")
    start_response(status if environ["QUERY_STRING"] else "200 OK", [("Content-Type", "text/plain")])
    return [b"order"]


class Instance(Server):
    """One server of the fleet, whose page stands for all."""

    module_folders = (ROOT / "bench",)


def real_page() -> str:
    """Return the page of a real server that has served requests of all routes."""
    with Instance.gunicorn("fleet:application", workers=WORKERS) as server:
        for turn in range(4):
            for number in range(ROUTES):
                _get(f"{server.url}/{number}")
                if number % 10 < 2:
                    _get(f"{server.url}/{number}?failing")
                if number % 3 == 0:
                    _get(f"{server.url}/{number}", data=b"%d" % turn)
        return _get(server.metrics_url)


class Pages:
    """A real page as time goes on: what only rises grows each second, by as much as it is large."""

    def __init__(self, page: str) -> None:
        self._lines: list[tuple[str, float | None]] = []
        self.samples = 0
        rises = False
        for line in page.splitlines():
            found = _SAMPLE.fullmatch(line)
            if found is None:
                rises = (
                    line.endswith((" counter", " histogram", " summary"))
                    if line.startswith("# TYPE")
                    else rises
                )
                self._lines.append((line, None))
            else:
                self.samples += 1
                head, value = found[1], float(found[2])
                self._lines.append((head, value) if rises and value else (line, None))
        self._began = time.monotonic()
        self._last: tuple[int, bytes] = (-1, b"")

    def content(self) -> bytes:
        """Return the page of this second, compressed."""
        second = int(time.monotonic() - self._began)
        if self._last[0] != second:
            text = "\n".join(
                line if value is None else f"{line}{value * (1 + second)!r}" for line, value in self._lines
            )
            self._last = second, gzip.compress(f"{text}\n".encode(), 1)
        return self._last[1]


class Fleet:
    """Serves the pages from a thread, at any path; connections stay open, as Prometheus keeps them."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096), self._loop
        )
        self.address = "{}:{}".format(*started.result(30).sockets[0].getsockname())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                body = self._pages.content()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()


def configure(folder: Path, address: str, instances: int, *, rules: bool) -> None:
    """
    Write the configuration of Prometheus: with its targets, or with the rules that `wsgi-prom rules` makes. Not with both, so that
    it is known what rules take.
    """
    targets = [
        {
            "targets": [address],
            "labels": {"__metrics_path__": f"/{number}/metrics", "instance": f"web-{number}:9464"},
        }
        for number in range(0 if rules else instances)
    ]
    (folder / "targets.json").write_text(json.dumps(targets))
    config = {
        "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{EVALUATION}s"},
        "rule_files": ["rules.yml"] if rules else [],
        "scrape_configs": [{"job_name": "shop", "file_sd_configs": [{"files": ["targets.json"]}]}],
    }
    (folder / "prometheus.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "wsgi_prom", "rules", "--out", str(folder / "rules.yml")]
    subprocess.run(command, check=True, cwd=ROOT)


class Prometheus:
    """A running Prometheus at *url*."""

    def __init__(self, url: str, pid: int, folder: Path) -> None:
        self._url, self._pid, self._folder = url, pid, folder

    def own(self) -> dict[str, float]:
        """Return its own metrics, added up by name."""
        found: dict[str, float] = {}
        for line in _get(f"{self._url}/metrics").splitlines():
            sample = None if line.startswith("#") else _SAMPLE.fullmatch(line)
            if sample is not None:
                name = sample[1].partition("{")[0].strip()
                found[name] = found.get(name, 0.0) + float(sample[2])
        return found

    def value(self, expression: str) -> float:
        """Return the only value of *expression*, NaN if it has none."""
        answer = json.loads(_get(f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
        return float(answer["data"]["result"][0]["value"][1]) if answer["data"]["result"] else float("nan")

    def spent(self, work: Callable[[], object], idle: float) -> float:
        """Return the seconds of a processor that *work* takes, beside *idle* seconds in each second."""
        before, began = self.own()["process_cpu_seconds_total"], time.monotonic()
        work()
        return max(self.own()["process_cpu_seconds_total"] - before - idle * (time.monotonic() - began), 0.0)

    def ended(self) -> float:
        """Return how many evaluations of groups of rules have ended, after a while: the question takes time too."""
        time.sleep(2)
        return self.own()["prometheus_rule_group_duration_seconds_count"]

    def resident(self) -> float:
        """Return its resident memory and the most that it ever had, the larger: in bytes."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return 1024.0 * max(
            int(number) for number in re.findall(r"^Vm(?:HWM|RSS):\s+(\d+)", status, re.MULTILINE)
        )

    def disk(self) -> int:
        return sum(path.stat().st_size for path in (self._folder / "data").rglob("*") if path.is_file())


def _get(url: str, data: bytes | None = None) -> str:
    try:
        with urllib.request.urlopen(url, data=data, timeout=QUERY_SECONDS) as answer:
            body: bytes = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    return body.decode()


def measure(instances: int, seconds: int) -> Iterator[tuple[str, str]]:
    """Have Prometheus scrape *instances* for *seconds*, ask it, give it rules, and yield what each took."""
    page = real_page()
    pages = Pages(page)
    with tempfile.TemporaryDirectory() as path, Fleet(pages) as fleet, socket.socket() as held:
        folder = Path(path)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        configure(folder, fleet.address, instances, rules=False)
        command = ["prometheus", f"--config.file={folder / 'prometheus.json'}", f"--web.listen-address={address}",
                   f"--storage.tsdb.path={folder / 'data'}"]  # fmt: skip
        with Server(command, ready=(r"ready to receive web requests", 1), url=f"http://{address}") as server:
            prometheus = Prometheus(server.url, server.pid, folder)
            # Each target is scraped within the first interval; new series cost more than more samples of them.
            time.sleep(2 * INTERVAL + 5)
            first, began = prometheus.own(), time.monotonic()
            time.sleep(seconds)
            last, took = prometheus.own(), time.monotonic() - began
            series = last["prometheus_tsdb_head_series"]
            samples, idle = (
                (last[name] - first[name]) / took
                for name in ("prometheus_tsdb_head_samples_appended_total", "process_cpu_seconds_total")
            )
            yield "instances that are up", f"{prometheus.value('sum(up)'):g} of {instances}"
            yield (
                "a page",
                f"{pages.samples:,} samples, {len(page) / 1000:.0f} kB, compressed {len(pages.content()) / 1000:.0f} kB",
            )
            yield "series", f"{series:,.0f}"
            yield "samples", f"{samples:,.0f} a second"
            yield "memory", _memory(prometheus, series)
            yield "processor", f"{idle:.2f} cores"
            yield "disk", f"{prometheus.disk() / 1e6:.0f} MB in {took + 2 * INTERVAL + 5:.0f} s"
            yield (
                "99 % of the scrapes",
                f"within {prometheus.value('quantile(0.99, scrape_duration_seconds)'):.2f} s",
            )
            for question, expression in EXPRESSIONS.items():
                spent = prometheus.spent(lambda expression=expression: prometheus.value(expression), idle)  # type: ignore[misc]
                yield question, f"{spent:.1f} s of a processor"
            configure(folder, fleet.address, instances, rules=True)
            groups = (folder / "rules.yml").read_text().count("- name:")
            server.kill(signal.SIGHUP)
            spent = prometheus.spent(
                lambda: eventually(prometheus.ended, lambda ended: ended >= groups, RULES_SECONDS), 0
            )
            # Some groups have begun again when the last one ends for the first time.
            yield "all rules, once", f"{spent * groups / prometheus.ended():.0f} s of a processor"
            yield "memory, with rules", _memory(prometheus, series)


def _memory(prometheus: Prometheus, series: float) -> str:
    return f"{prometheus.resident() / 1e9:.1f} GB at most, {prometheus.resident() / series / 1000:.1f} kB a series"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench/fleet.py", description=__doc__)
    parser.add_argument("--instances", type=int, default=1000, metavar="NUMBER", help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=int, default=120, help="how long Prometheus is watched, default: %(default)s"
    )
    arguments = parser.parse_args(argv)
    for name, value in measure(arguments.instances, arguments.seconds):
        print(f"{name:30}{value}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
