"""What a worker of RQ runs: an unchanged program with a metric of its own."""

from __future__ import annotations

from prometheus_client import Counter

WORKED = Counter("jobs_worked_total", "What jobs have worked.", registry=None)


def work(number: int) -> int:
    WORKED.inc(number)
    return number
