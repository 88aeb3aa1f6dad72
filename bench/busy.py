"""
An application as real ones are: a little CPU, a little waiting, and a thousand label sets of metrics of its own.

`/N` records into label set N, `/spin` only computes, and `/metrics` is stock's scrape: in a worker, with a new registry
each time, as the client library documents it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from filler import LABELS, LabelSets
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

WAIT_SECONDS: Final = 0.010

# About a millisecond of CPU. Steps and not a time: on a shared core the same work takes longer.
_STEPS: Final = 25_000
_SPINS: Final = 20

_sets: Final = LabelSets(LABELS)
_sets.change()


def app(environ: dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return make_wsgi_app(registry)(environ, start_response)
    started = time.perf_counter()
    if path == "/spin":
        sum(range(_SPINS * _STEPS))
    else:
        sum(range(_STEPS))
        time.sleep(WAIT_SECONDS)
        _sets.record(int(path[1:]), time.perf_counter() - started)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
