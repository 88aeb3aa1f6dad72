"""Run wrk, a closed loop that sends as many requests as a server can answer, and read its result."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final, NamedTuple

CONNECTIONS: Final = 8

_COUNT: Final = re.compile(r"(\d+) requests in ")
_PER_SECOND: Final = re.compile(r"Requests/sec:\s+([\d.]+)")
_FAILED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


class Run(NamedTuple):
    """The result of a run of wrk. *failed* are socket errors, and answers with another status than 2xx and 3xx."""

    requests: int
    per_second: float
    failed: int


def parse(output: str) -> Run:
    count, per_second = _COUNT.search(output), _PER_SECOND.search(output)
    if count is None or per_second is None:
        raise ValueError(f"wrk said something else: {output}")
    failures = [match[number] for number in (1,) if (match := _FAILED.search(output))]
    failures += match.groups() if (match := _ERRORS.search(output)) else ()
    return Run(int(count[1]), float(per_second[1]), sum(map(int, failures)))


def command(url: str, seconds: int) -> list[str]:
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is not installed; Debian and Ubuntu have it as the package wrk")
    # One thread is enough, and leaves the other cores to the servers.
    words = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"]
    # As a proxy sends it by default. A connection that is kept stays with the worker that accepted it: depending on how they
    # were spread over gunicorn's threaded workers, the same server answered 1,500 or 4,000 requests a second (tried).
    return [*words, "--header", "Connection: close", url]


def run(url: str, seconds: int) -> Run:
    """Load *url* for that long. Raises RuntimeError if a request failed: errors are answered faster."""
    done = subprocess.run(
        command(url, seconds), capture_output=True, text=True, check=True, timeout=seconds + 30
    )
    found = parse(done.stdout)
    if found.failed:
        raise RuntimeError(f"{url}: {found.failed} of {found.requests} requests failed:\n{done.stdout}")
    return found
